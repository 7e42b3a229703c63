package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/bgp"
)

// TestPlanEndsBFD: FRR 8.4 and BIRD with `bfd on` reset a session whose BFD the host ends, on purpose as it may be. A plan that
// calls it undisturbed costs all sessions at a time.
func TestPlanEndsBFD(t *testing.T) {
	load := func(peers string) *config.Config {
		t.Helper()
		cfg, err := config.Load(writeConfig(t, "asn: 65001\nrouter_id: 192.0.2.1\nblocks: [10.64.0.0/26]\npeers:\n"+peers), nil)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	now := load(`
  - {address: 192.0.2.10, asn: 65101, bfd: {enabled: true}}
  - {address: 192.0.2.11, asn: 65101, bfd: {enabled: true}}
  - {address: 192.0.2.12, asn: 65101, bfd: {enabled: true}}
  - {address: 192.0.2.13, asn: 65101}
`)
	next := load(`
  - {address: 192.0.2.10, asn: 65101}
  - {address: 192.0.2.11, asn: 65102}
  - {address: 192.0.2.12, asn: 65101, bfd: {enabled: true, interval: 1s}}
  - {address: 192.0.2.13, asn: 65101, bfd: {enabled: true}}
`)
	addr := netip.MustParseAddr
	peers := []bgp.Peer{{Address: addr("192.0.2.10")}, {Address: addr("192.0.2.11")}, {Address: addr("192.0.2.12")}, {Address: addr("192.0.2.13")}}
	got := endBFD([]bgp.SessionChange{{Peer: addr("192.0.2.11"), Effect: bgp.SessionReset}}, now, next, peers)
	want := []bgp.SessionChange{{Peer: addr("192.0.2.11"), Effect: bgp.SessionReset}, {Peer: addr("192.0.2.10"), Effect: bfdEnds}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
