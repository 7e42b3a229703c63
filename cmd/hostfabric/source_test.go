package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/config"
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
	cfg.Etcd.HostID = "r1h1"
	if got := id("machine-c"); got != "r1h1" {
		t.Errorf("the configured identity is not used: %q", got)
	}
}

func TestHostIDNotUnderstood(t *testing.T) {
	cfg := &config.Config{StateDir: t.TempDir()}
	file := filepath.Join(cfg.StateDir, "host-id")
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hostID(cfg, "machine", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), file+" is empty") {
		t.Errorf("an empty file: %v", err)
	}
}
