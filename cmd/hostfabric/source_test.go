package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/etcd/etcdtest"
)

func TestHostID(t *testing.T) {
	cfg := &config.Config{StateDir: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	id := func(machine string) string {
		t.Helper()
		got, err := hostID(cfg, machine, log)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := id("machine-a")
	if len(first) != 32 || id("machine-a") != first || id("") != first {
		t.Errorf("the identity %q is not kept", first)
	}
	if err := os.WriteFile(cfg.BlockRecord(), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	clone := id("machine-b")
	if clone == first || id("machine-b") != clone {
		t.Errorf("a machine with the state directory of another has the identity %q, the other has %q", clone, first)
	}
	if _, err := os.Stat(cfg.BlockRecord()); !os.IsNotExist(err) {
		t.Errorf("it has the other's record of blocks: %v", err)
	}
	if _, err := os.Stat(cfg.BlockRecord() + ".other-machine"); err != nil {
		t.Errorf("the other's record is not put aside: %v", err)
	}
	file := filepath.Join(cfg.StateDir, "host-id")
	if err := os.WriteFile(file, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := id("machine-c"); got != first || id("machine-d") == first {
		t.Errorf("an identity without a machine is not tied to the first that comes: %q", got)
	}
	cfg.Etcd.HostID = "r1h1"
	if got := id("machine-c"); got != "r1h1" {
		t.Errorf("the configured identity is not used: %q", got)
	}
}

func TestUnique(t *testing.T) {
	for id, want := range map[string]bool{
		"": false, "00000000-0000-0000-0000-000000000000": false, "ffffffff-ffff-ffff-ffff-ffffffffffff": false,
		"03000200-0400-0500-0006-000700080009": false, "4c4c4544-0046-3310-8051-b4c04f4d3132": true, "0123456789abcdef0123456789abcdef": true,
	} {
		if got := unique(id); got != want {
			t.Errorf("%q: %v, want %v", id, got, want)
		}
	}
}

func TestHostIDNotUnderstood(t *testing.T) {
	cfg := &config.Config{StateDir: t.TempDir()}
	file := filepath.Join(cfg.StateDir, "host-id")
	log := slog.New(slog.DiscardHandler)
	for _, text := range []string{"\n", "zzz\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := hostID(cfg, "machine", log); err == nil || !strings.Contains(err.Error(), file+" is not understood") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	record := ipam.Record{Blocks: []ipam.RecordedBlock{{Prefix: netip.MustParsePrefix("10.64.0.0/26"), Pool: "default", Source: "etcd"}}}
	if err := record.Save(cfg.BlockRecord()); err != nil {
		t.Fatal(err)
	}
	if _, err := hostID(cfg, "machine", log); err == nil || !strings.Contains(err.Error(), "has claimed 10.64.0.0/26") {
		t.Errorf("no identity, but blocks: %v", err)
	}
}

// TestBlockSourceByConfiguration takes a real etcd, certificates and a password from a configuration file.
func TestBlockSourceByConfiguration(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{TLS: true})
	user, nobody := server.EnableAuth("/hostfabric/v1")
	dir := t.TempDir()
	server.Authority.Files(dir, "host")
	server.Authority.File(dir)
	claim := func(u etcdtest.User, more string) ([]ipam.Block, error) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "password"), []byte(u.Password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "hostfabric.yaml")
		text := fmt.Sprintf("asn: 4200000101\nrouter_id: 192.0.2.1\nhost: h1\npeers: []\nfabric: [10.64.0.0/12]\nstate_dir: %s\nsource: etcd\n"+
			"etcd: {endpoints: [%q], ca_file: ca.crt, username: %s, password_file: password%s}\n", dir, server.Endpoint(), u.Name, more)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		source, err := newBlockSource(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer source.close()
		fits := func([]netip.Prefix) error { return nil }
		return source.Source.(ipam.Grower).Grow(t.Context(), ipam.Growth{Pool: "default", Fits: fits})
	}
	const certificate = ", cert_file: host.crt, key_file: host.key"
	got, err := claim(user, certificate)
	if err != nil || len(got) != 1 || got[0].Prefix != netip.MustParsePrefix("10.64.0.0/26") {
		t.Errorf("claimed %v, %v", got, err)
	}
	if _, err := claim(nobody, certificate); err == nil || errors.Is(err, ipam.ErrSourceAway) {
		t.Errorf("a user who may nothing: %v", err)
	}
	if _, err := claim(etcdtest.User{Name: user.Name, Password: "wrong"}, certificate); err == nil || errors.Is(err, ipam.ErrSourceAway) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := claim(user, ""); err == nil {
		t.Error("without a certificate it goes as well")
	}
}
