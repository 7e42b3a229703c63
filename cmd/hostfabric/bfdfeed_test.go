package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

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
