package bgp

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	api "github.com/osrg/gobgp/v3/api"
)

// An external peer may name itself, or another router of the subnet both share: nothing else, and never us.
func TestNextHopsOffTheLink(t *testing.T) {
	ip, pfx := netip.MustParseAddr, netip.MustParsePrefix
	var log bytes.Buffer
	v := newView(slog.New(slog.NewTextHandler(&log, nil)), 0)
	c := Config{Peers: []Peer{
		{Address: ip("10.0.1.1"), Subnets: []netip.Prefix{pfx("10.0.1.5/28"), pfx("2001:db8:1::5/64")}},
		{Address: ip("10.0.2.1")},
		{Address: ip("10.9.9.9"), Subnets: []netip.Prefix{pfx("10.9.9.9/32")}},
		{Address: ip("fe80::a%eth0"), Subnets: []netip.Prefix{pfx("2001:db8:2::5/64"), pfx("fe80::5/64")}},
	}}
	v.configure(c)
	for _, tc := range []struct{ prefix, hop, from, problem string }{
		{"10.1.0.0/24", "10.0.1.1", "10.0.1.1", ""},
		{"10.1.0.0/24", "10.0.1.9", "10.0.1.1", ""},
		{"10.1.0.0/24", "10.0.1.5", "10.0.1.1", "the next hop 10.0.1.5 is this host's own address"},
		{"10.1.0.0/24", "10.0.1.16", "10.0.1.1", "the next hop 10.0.1.16 is not on the link to the peer"},
		{"10.1.0.0/24", "10.0.2.1", "10.0.1.1", "the next hop 10.0.2.1 is not on the link to the peer"},
		{"10.1.0.0/24", "127.0.0.1", "10.0.1.1", "the next hop 127.0.0.1 is not on the link to the peer"},
		{"2001:db8:f::/48", "2001:db8:1::1", "10.0.1.1", ""},
		{"2001:db8:f::/48", "2001:db8:1::5", "10.0.1.1", "the next hop 2001:db8:1::5 is this host's own address"},
		{"2001:db8:f::/48", "2001:db8:2::1", "10.0.1.1", "the next hop 2001:db8:2::1 is not on the link to the peer"},
		{"10.1.0.0/24", "192.0.2.77", "10.0.2.1", ""}, // unchecked
		{"10.1.0.0/24", "10.9.9.9", "10.9.9.9", ""},   // its own, although that is all it may name
		{"10.1.0.0/24", "10.9.9.8", "10.9.9.9", "the next hop 10.9.9.8 is not on the link to the peer"},
		{"2001:db8:f::/48", "2001:db8:2::1", "fe80::a", ""},
		{"2001:db8:f::/48", "fe80::a", "fe80::a", ""},
		{"2001:db8:f::/48", "fe80::b", "fe80::a", "a link-local next hop that is no peer's address"},
	} {
		_, problem := v.hop(pfx(tc.prefix), legOf(learned(tc.prefix, tc.hop, tc.from), 0))
		if problem != tc.problem {
			t.Errorf("%s via %s from %s: %q, want %q", tc.prefix, tc.hop, tc.from, problem, tc.problem)
		}
	}
}

// What is told of does not grow with what a peer announces, and is over when the peer withdraws it.
func TestUnusableNextHopsAreSampled(t *testing.T) {
	v := newView(slog.New(slog.DiscardHandler), 0)
	peer := netip.MustParseAddr("10.0.1.1")
	v.configure(Config{Peers: []Peer{{Address: peer, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/31")}}}})
	var paths []*api.Path
	for i := range 100 {
		paths = append(paths, learned(fmt.Sprintf("10.1.%d.0/24", i), "192.0.2.1", "10.0.1.1"))
	}
	v.apply(paths)
	list := []PeerStatus{{Address: peer, Families: []FamilyStatus{{Family: IPv4}}}}
	v.tallies.fill(list)
	if f := list[0].Families[0]; f.Unusable != 100 || len(list[0].Refused) != maxRefusals || list[0].Refused[0].Reason != NextHop {
		t.Errorf("%d unusable, %d told of", f.Unusable, len(list[0].Refused))
	}
	for _, p := range paths {
		p.IsWithdraw = true
	}
	v.apply(paths)
	list[0].Refused = nil
	v.tallies.fill(list)
	if f := list[0].Families[0]; f.Unusable != 0 || len(list[0].Refused) != 0 || len(v.elsewhere) != 0 {
		t.Errorf("%d unusable, %d told of, %d kept", f.Unusable, len(list[0].Refused), len(v.elsewhere))
	}
}

func TestRefuses(t *testing.T) {
	p := HostPolicy{
		Import:   []ImportRule{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("10.64.0.0/12"), MaxLength: 32}},
		OwnSpace: prefixList("10.64.1.0/26", "10.64.1.64/27", "fd64:0:1::/64"),
	}
	for prefix, want := range map[string]string{
		"0.0.0.0/0":      " invalid Prefix",
		"::/0":           "not_listed invalid Prefix",
		"10.64.2.0/26":   " invalid Prefix",
		"10.64.1.0/26":   "own_space 10.64.1.0/26",
		"10.64.1.63/32":  "own_space 10.64.1.0/26",
		"10.64.1.64/26":  "own_space 10.64.1.64/27",
		"10.64.1.0/24":   "own_space 10.64.1.64/27", // the longest that is covered
		"10.64.1.128/26": " invalid Prefix",
		"0.0.0.0/1":      "own_space 10.64.1.64/27",
		"192.0.2.0/24":   "not_listed invalid Prefix",
		"fd64::/16":      "own_space fd64:0:1::/64",
	} {
		reason, own := p.refuses(netip.MustParsePrefix(prefix))
		if got := fmt.Sprintf("%s %v", reason, own); got != want {
			t.Errorf("%s: %q, want %q", prefix, got, want)
		}
	}
}

func TestSampleKeepsTheFirst(t *testing.T) {
	for range 50 {
		var s sample
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("10.0.%d.0/24", i))
		}
		for _, i := range rand.Perm(40) {
			for range 2 {
				s = s.add(Refusal{Prefix: netip.MustParsePrefix(want[i])})
			}
		}
		var got []string
		for _, r := range s {
			got = append(got, r.Prefix.String())
		}
		if strings.Join(got, " ") != strings.Join(want[:maxRefusals], " ") {
			t.Fatalf("kept %v", got)
		}
	}
}
