package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/etcd"
	"github.com/hostfabric/hostfabric/ipam/static"
)

// blockSource is where this host's blocks come from.
type blockSource struct {
	ipam.Source
	roster ipam.Roster // nil where nothing is claimed
	close  func() error
}

func newBlockSource(cfg *config.Config, log *slog.Logger) (*blockSource, error) {
	if cfg.Source != config.SourceEtcd {
		return &blockSource{Source: static.New(configuredBlocks(cfg)), close: func() error { return nil }}, nil
	}
	id, err := hostID(cfg, machineID(), log)
	if err != nil {
		return nil, err
	}
	e := cfg.Etcd
	source, err := etcd.New(etcd.Config{
		Endpoints: e.Endpoints, TLS: e.TLS, Username: e.Username, Password: string(e.Password), Prefix: e.Prefix, Timeout: e.Timeout,
		Log: log.With("room", "etcd"),
	}, etcd.Identity{ID: id, Host: cfg.Host}, cfg.Pools)
	if err != nil {
		return nil, err
	}
	return &blockSource{Source: source, roster: source, close: source.Close}, nil
}

func configuredBlocks(cfg *config.Config) []ipam.Block {
	bs := make([]ipam.Block, len(cfg.Blocks))
	for i, b := range cfg.Blocks {
		bs[i] = ipam.Block{Prefix: b.Prefix, Pool: b.Pool}
	}
	return bs
}

// hostID is the identity under which this host claims blocks: the configured one, or a random one that is kept in the state
// directory together with the machine's. A state directory that came along with an image of another machine is not
// taken over, for that one may be alive: this host begins anew then, without the other's blocks.
func hostID(cfg *config.Config, machine string, log *slog.Logger) (string, error) {
	if cfg.Etcd.HostID != "" {
		return cfg.Etcd.HostID, nil
	}
	file := filepath.Join(cfg.StateDir, "host-id")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return firstHostID(cfg, file, machine)
	}
	if err != nil {
		return "", fmt.Errorf("identity of this host: %w", err)
	}
	fields := strings.Fields(string(text))
	switch {
	case len(fields) == 0 || !hostIDText.MatchString(fields[0]):
		return "", fmt.Errorf("identity of this host: %s is not understood: %s", file, lostIdentity)
	case len(fields) == 1 && machine != "": // written while the machine could not be told
		return fields[0], writeHostID(file, fields[0], machine)
	case len(fields) == 1 || machine == "" || fields[1] == machine:
		return fields[0], nil
	}
	log.Warn("the state directory is another machine's: beginning with a new identity and without its blocks", "file", file)
	if err := os.Rename(cfg.BlockRecord(), cfg.BlockRecord()+".other-machine"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("put the other machine's record of blocks aside: %w", err)
	}
	return newHostID(file, machine)
}

// hostIDText is what newHostID draws.
var hostIDText = regexp.MustCompile("^[0-9a-f]{32}$")

const lostIdentity = "set etcd.host_id to the ID that this host has in `hostfabric blocks claims` of another host, " +
	"or remove host-id and blocks.json from the state directory if no container of this host has an address"

// firstHostID draws an identity for a host that has none, unless it has blocks by another: they would be somebody else's.
func firstHostID(cfg *config.Config, file, machine string) (string, error) {
	record, err := ipam.LoadRecord(cfg.BlockRecord())
	if err != nil {
		return "", err
	}
	for _, b := range record.Blocks {
		if b.Source == etcd.Name {
			return "", fmt.Errorf("identity of this host: %s is missing, and this host has claimed %s: %s", file, b.Prefix, lostIdentity)
		}
	}
	return newHostID(file, machine)
}

func newHostID(file, machine string) (string, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw an identity for this host: %w", err)
	}
	id := hex.EncodeToString(raw)
	return id, writeHostID(file, id, machine)
}

func writeHostID(file, id, machine string) error {
	if err := ipam.ReplaceFile(file, []byte(strings.TrimSpace(id+" "+machine)+"\n")); err != nil {
		return fmt.Errorf("keep the identity of this host: %w", err)
	}
	return nil
}

// machineID tells machines apart: by the board's UUID (SMBIOS), which an image does not carry along, or else by
// machine-id(5). Empty where there is neither.
func machineID() string {
	for _, file := range []string{"/sys/class/dmi/id/product_uuid", "/etc/machine-id"} {
		text, err := os.ReadFile(file)
		if id := strings.ToLower(strings.TrimSpace(string(text))); err == nil && unique(id) {
			return id
		}
	}
	return ""
}

// unique refuses what boards say whose maker gave them no UUID: one digit all over, or a known filler.
func unique(id string) bool {
	digits := strings.ReplaceAll(id, "-", "")
	return strings.Trim(digits, digits[:min(1, len(digits))]) != "" && id != "03000200-0400-0500-0006-000700080009"
}
