package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/unnumbered"
	"github.com/hostfabric/hostfabric/bgp"
)

func TestSpeakerConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hostfabric.yaml")
	if err := os.WriteFile(file, []byte(`
asn: 65001
host: h
blocks: [10.64.0.0/26]
peers:
  - {interface: uplink8, asn: external, name: tor1, local_as: 65009, send_communities: large, max_prefixes: 7, max_prefixes_restart: 1m}
  - {interface: uplink9, asn: 65102}
  - {address: 203.0.113.9, asn: 65103, timers: {hold: 30s}, max_prefixes_restart: never}
bgp:
  bmp: [{address: 192.0.2.9, policy: post}]
  mrt: {file: /var/lib/table.mrt, interval: 5m}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	routers := map[string]unnumbered.Router{
		"uplink8": {Addr: netip.MustParseAddr("fe80::a%uplink8")}, "uplink9": {Problem: "no router heard on uplink9"},
	}
	// The link to one was found before, and is down: what is known of it stays.
	subnet := netip.MustParsePrefix("fe80::b/64")
	found := uplinks{netip.MustParseAddr("fe80::a%uplink8"): {Name: "uplink8", Addresses: []netip.Prefix{subnet}}}
	got := speakerConfig(cfg, netip.MustParseAddr("192.0.2.100"), nil, func(link string) unnumbered.Router { return routers[link] }, found)
	const s = time.Second
	want := []bgp.Peer{
		{
			Address: netip.MustParseAddr("fe80::a%uplink8"), LocalAS: 65009, Description: "tor1", Communities: bgp.LargeCommunities,
			MaxPrefixes: 7, MaxPrefixesRestart: time.Minute, HoldTime: 9 * s, Keepalive: 3 * s, ConnectRetry: s, Subnets: []netip.Prefix{subnet},
		},
		{
			Address: netip.MustParseAddr("fe80::%uplink9"), Pending: "no router heard on uplink9", ASN: 65102, Description: "uplink9", Communities: bgp.AllCommunities,
			MaxPrefixes: 20000, MaxPrefixesRestart: 5 * time.Minute, HoldTime: 9 * s, Keepalive: 3 * s, ConnectRetry: s,
		},
		{
			Address: netip.MustParseAddr("203.0.113.9"), ASN: 65103, Description: "203.0.113.9", Communities: bgp.AllCommunities,
			MaxPrefixes: 20000, HoldTime: 30 * s, Keepalive: 10 * s, ConnectRetry: s, Subnets: []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")},
		},
	}
	same := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})
	if diff := cmp.Diff(want, got.Peers, same); diff != "" {
		t.Errorf("peers, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]bgp.Station{{Address: netip.MustParseAddrPort("192.0.2.9:11019"), View: bgp.PostPolicy}}, got.Stations, same); diff != "" {
		t.Errorf("stations, -want +got:\n%s", diff)
	}
	if want := (bgp.Dump{File: "/var/lib/table.mrt", Interval: 5 * time.Minute}); got.Dump != want {
		t.Errorf("dump %+v", got.Dump)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	links := peerAddresses(cfg)
	if links[0].Zone() != "uplink8" || links[1].Zone() != "uplink9" || links[2] != netip.MustParseAddr("203.0.113.9") {
		t.Errorf("addresses %v", links)
	}
}
