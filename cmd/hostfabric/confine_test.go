package main

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/firewall"
)

func TestFirewallPolicy(t *testing.T) {
	tcp := func(n uint16) firewall.Port { return firewall.Port{Protocol: firewall.TCP, Number: n} }
	udp := func(n uint16) firewall.Port { return firewall.Port{Protocol: firewall.UDP, Number: n} }
	bfd := config.Peer{BFD: config.BFD{Enabled: true}}
	except, fabric := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")
	for _, tt := range []struct {
		name string
		cfg  config.Config
		want firewall.Policy
	}{
		{"nothing listens", config.Config{BGP: config.BGP{Port: 179}, Fabric: []netip.Prefix{fabric}}, firewall.Policy{}},
		{"everything does", config.Config{
			Firewall: config.Firewall{Enabled: true}, Peers: []config.Peer{{}, bfd},
			BGP:     config.BGP{Listen: true, Port: 1179, Inspect: config.Listener{Network: "tcp", Address: "127.0.0.1:50051"}},
			Metrics: config.Metrics{Listen: config.Listener{Network: "tcp", Address: ":9179"}},
			DNS:     config.DNS{Enabled: true, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}}, // is for them
		}, firewall.Policy{Enabled: true, Closed: []firewall.Port{tcp(1179), udp(3784), udp(3785), tcp(50051), tcp(9179)}}},
		{"one is open, one a file", config.Config{
			Firewall: config.Firewall{Enabled: true, Open: []uint16{9179}},
			BGP:      config.BGP{Inspect: config.Listener{Network: "unix", Address: "/run/x.sock"}},
			Metrics:  config.Metrics{Listen: config.Listener{Network: "tcp", Address: "[::1]:9179"}},
		}, firewall.Policy{Enabled: true}},
		{"masquerade", config.Config{
			Firewall: config.Firewall{Enabled: true}, Fabric: []netip.Prefix{fabric},
			Masquerade: config.Masquerade{Enabled: true, Except: []netip.Prefix{except}},
		}, firewall.Policy{Enabled: true, Masquerade: true, Except: []netip.Prefix{except, fabric}}},
	} {
		if got := firewallPolicy(&tt.cfg); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
