package bgp

import (
	"net/netip"
	"testing"
)

func TestLeavingPolicies(t *testing.T) {
	conf := Config{ASN: 65001, Policy: HostPolicy{}, Peers: []Peer{
		{Address: netip.MustParseAddr("10.0.1.0"), ASN: 1}, {Address: netip.MustParseAddr("10.0.2.0"), ASN: 2}, {Address: netip.MustParseAddr("fe80::1%eth2"), ASN: 3},
	}}
	const sent = "if local prefix[10.1.0.0/26{26,26}] accept\n"
	var last policySet
	for step, want := range []string{
		Stay:        sent,
		LeaveLonger: "if local peer[10.0.2.0/32 fe80::1/128] prepend first-asx1 none\n" + sent,
		LeaveOthers: "if local peer[10.0.2.0/32 fe80::1/128] prepend first-asx1 none\nif local peer[10.0.2.0/32 fe80::1/128] add 65535:0 none\n" + sent,
		LeaveAll:    "if local peer[10.0.2.0/32 fe80::1/128] prepend first-asx1 none\nif local peer[10.0.1.0/32 10.0.2.0/32 fe80::1/128] add 65535:0 none\n" + sent,
	} {
		conf.Leave = Leave(step)
		ps := buildPolicies(conf, announcements("10.1.0.0/26"))
		if got := text(ps, exportPolicy); got != want {
			t.Errorf("step %d:\n%swant:\n%s", step, got, want)
		}
		// Who hears of a change is sent the routes anew, and nobody else.
		for i, p := range conf.Peers {
			anew := last.exports[p.Address] != "" && last.exports[p.Address] != ps.exports[p.Address]
			first := i == 0
			if want := step > 0 && first == (Leave(step) == LeaveAll); anew != want {
				t.Errorf("step %d: routes sent anew to %s: %v", step, p.Address, anew)
			}
		}
		last = ps
	}
	one := Config{ASN: 65001, Policy: HostPolicy{}, Peers: conf.Peers[:1], Leave: LeaveOthers}
	if got := text(buildPolicies(one, announcements("10.1.0.0/26")), exportPolicy); got != sent {
		t.Errorf("with one peer: %s", got)
	}
	if got := text(buildPolicies(Config{Policy: TransitPolicy{}, Peers: conf.Peers, Leave: LeaveAll}, nil), exportPolicy); got != text(buildPolicies(Config{Policy: TransitPolicy{}, Peers: conf.Peers}, nil), exportPolicy) {
		t.Errorf("in transit: %s", got)
	}
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		text string
		most int
		want string
	}{{"abc", 3, "abc"}, {"abc", 2, "ab"}, {"aüc", 2, "a"}, {"aüc", 3, "aü"}, {"€€", 5, "€"}, {"", 0, ""}} {
		if got := cut(tc.text, tc.most); got != tc.want {
			t.Errorf("%q to %d bytes: %q, want %q", tc.text, tc.most, got, tc.want)
		}
	}
}
