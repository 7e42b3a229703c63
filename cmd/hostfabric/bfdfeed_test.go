package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/failover"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// TestBFDFeed: a path that died while no agent looked is told as such, once; one that the peer closed is not.
func TestBFDFeed(t *testing.T) {
	tor := netip.MustParseAddr("10.0.1.0")
	died := time.Unix(1_700_000_000, 0)
	state := func(s bfd.State, d bfd.Diagnostic) bfd.Status {
		return bfd.Status{Session: bfd.Session{Peer: tor}, State: s, Diagnostic: d, Since: died, LastDown: "silence"}
	}
	dead, up := state(bfd.Down, bfd.DetectionTimeExpired), state(bfd.Up, bfd.NoDiagnostic)
	for _, tc := range []struct {
		name   string
		states []bfd.Status
		want   []string
	}{
		{"dies", []bfd.Status{up, dead, dead}, []string{"down BFD: silence"}},
		{"dead at the start", []bfd.Status{dead, dead}, []string{"found BFD: silence 1700000000"}},
		{"new session", []bfd.Status{state(bfd.Down, bfd.NoDiagnostic), dead}, nil},
		{"closed by the peer", []bfd.Status{up, state(bfd.Down, bfd.NeighborSignaledDown)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			f := &bfdFeed{
				up:   make(map[netip.Addr]bool),
				told: newSessionLog(ledgers{}, history.BFDUp, history.BFDDown),
				down: func(_ netip.Addr, cause string) { got = append(got, "down "+cause) },
				found: func(_ netip.Addr, cause string, since time.Time) {
					got = append(got, fmt.Sprint("found ", cause, " ", since.Unix()))
				},
			}
			for _, s := range tc.states {
				f.changed(s)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("told %q, want %q", got, tc.want)
			}
		})
	}
}

// TestBFDAfterAnUndrain: the BFD process outlives the agent that had it close its sessions. One that starts on a host that is not
// drained opens them, whatever the last one came to say.
func TestBFDAfterAnUndrain(t *testing.T) {
	dir, err := os.MkdirTemp("", "hf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "hostfabric.yaml")
	if err := os.WriteFile(file, []byte(goodConfig+"run_dir: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.BFDSocket()), 0o700); err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("unix", cfg.BFDSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	told := make(chan string, 16)
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					told <- lines.Text()
					if _, err := fmt.Fprintln(conn, `{"version":"v","sessions":[]}`); err != nil {
						return
					}
				}
			}()
		}
	}()
	log := slog.New(slog.DiscardHandler)
	f := newBFDFeed(t.Context(), cfg, failover.New(nil, nil, log), agent.DrainRecord{}, newSessionLog(ledgers{}, history.BFDUp, history.BFDDown), log)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	done := make(chan error, 1)
	go func() { done <- f.client.Run(ctx) }()
	defer func() { <-done }()
	defer cancel()
	for {
		select {
		case line := <-told:
			if strings.Contains(line, `"admin_down":{"down":false`) {
				return
			}
		case <-ctx.Done():
			t.Fatal("the sessions stay closed")
		}
	}
}
