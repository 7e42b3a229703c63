package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	api "github.com/osrg/gobgp/v3/api"
)

// text renders a policy as an engineer would write it, one statement a line.
func text(ps policySet, name string) string {
	sets := map[string]string{}
	for _, s := range ps.request.DefinedSets {
		var items []string
		for _, p := range s.Prefixes {
			items = append(items, fmt.Sprintf("%s{%d,%d}", p.IpPrefix, p.MaskLengthMin, p.MaskLengthMax))
		}
		sets[s.Name] = strings.Join(append(items, s.List...), " ")
	}
	var b strings.Builder
	for _, p := range ps.request.Policies {
		for _, s := range p.Statements {
			if p.Name != name {
				continue
			}
			b.WriteString("if")
			c := s.Conditions
			switch c.RouteType {
			case api.Conditions_ROUTE_TYPE_LOCAL:
				b.WriteString(" local")
			case api.Conditions_ROUTE_TYPE_EXTERNAL:
				b.WriteString(" external")
			}
			if c.CommunitySet != nil {
				fmt.Fprintf(&b, " community[%s]", sets[c.CommunitySet.Name])
			}
			if c.NeighborSet != nil {
				fmt.Fprintf(&b, " peer[%s]", sets[c.NeighborSet.Name])
			}
			for _, f := range c.AfiSafiIn {
				fmt.Fprintf(&b, " %s", familyOf(f))
			}
			if len(c.NextHopInList) > 0 {
				fmt.Fprintf(&b, " nexthop%v", c.NextHopInList)
			}
			if c.PrefixSet != nil {
				fmt.Fprintf(&b, " prefix[%s]", sets[c.PrefixSet.Name])
			}
			if nh := s.Actions.Nexthop; nh != nil {
				fmt.Fprintf(&b, " set nexthop %s", nh.Address)
			}
			if pre := s.Actions.AsPrepend; pre != nil {
				what := fmt.Sprint(pre.Asn)
				if pre.UseLeftMost {
					what = "first-as"
				}
				fmt.Fprintf(&b, " prepend %sx%d", what, pre.Repeat)
			}
			if com := s.Actions.Community; com != nil {
				fmt.Fprintf(&b, " %s %s", strings.ToLower(com.Type.String()), strings.Join(com.Communities, " "))
			}
			fmt.Fprintf(&b, " %s\n", strings.ToLower(s.Actions.RouteAction.String()))
		}
	}
	return b.String()
}

func prefixList(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(s))
	for i := range s {
		out[i] = netip.MustParsePrefix(s[i])
	}
	return out
}

func announcements(s ...string) []Announcement {
	var out []Announcement
	for _, p := range prefixList(s...) {
		out = append(out, Announcement{Prefix: p})
	}
	return out
}

func TestBuildPolicies(t *testing.T) {
	ip := netip.MustParseAddr
	host := HostPolicy{
		Import: []ImportRule{
			{Prefix: netip.MustParsePrefix("0.0.0.0/0")},
			{Prefix: netip.MustParsePrefix("10.0.0.0/8"), MinLength: 16, MaxLength: 24}, {Prefix: netip.MustParsePrefix("10.9.0.0/16")},
		},
		OwnSpace: prefixList("128.0.0.0/3", "144.0.0.0/4"),
	}
	peers := []Peer{
		{Address: ip("192.0.2.1"), ASN: 1, NextHop6: ip("2001:db8::1")},
		{Address: ip("192.0.2.2"), ASN: 1},
		{Address: ip("2001:db8::2"), ASN: 1},
	}
	explicit := announcements("2001:db8:f::/48")
	explicit[0].NextHop = ip("2001:db8::9")
	for _, tc := range []struct {
		name    string
		config  Config
		set     []Announcement
		imports string
		exports string
	}{
		{
			name: "host", config: Config{Policy: host, Peers: peers}, set: announcements("10.1.0.0/26", "2001:db8:1::/64"),
			imports: `if local accept
if prefix[128.0.0.0/3{3,32}] reject
if prefix[128.0.0.0/1{1,1} 128.0.0.0/2{2,2} 128.0.0.0/3{3,3}] reject
if prefix[0.0.0.0/0{0,0}] accept
if prefix[10.0.0.0/8{16,24}] accept
if prefix[10.9.0.0/16{16,16}] accept
`,
			exports: `if local prefix[10.1.0.0/26{26,26}] accept
if local peer[192.0.2.2/32] ipv6 prefix[2001:db8:1::/64{64,64}] reject
if local peer[192.0.2.1/32] ipv6 prefix[2001:db8:1::/64{64,64}] set nexthop 2001:db8::1 accept
if local prefix[2001:db8:1::/64{64,64}] accept
`,
		},
		{
			name: "nothing announced", config: Config{Policy: HostPolicy{}, Peers: peers},
			imports: "if local accept\n",
		},
		{
			name: "next hops on the link", config: Config{Policy: HostPolicy{Import: host.Import[:2]}, Peers: []Peer{
				{Address: ip("192.0.2.1"), ASN: 1, Subnets: prefixList("192.0.2.5/28", "2001:db8::5/64")},
				{Address: ip("192.0.2.2"), ASN: 1, Subnets: prefixList("192.0.2.2/32")}, // its link is not there
				{Address: ip("192.0.2.3"), ASN: 1},
				{Address: ip("fe80::a%eth0"), ASN: 1, Subnets: prefixList("fe80::5/64")},
			}},
			imports: `if local accept
if nexthop[192.0.2.5/32 2001:db8::5/128] reject
if peer[192.0.2.1/32] nexthop[192.0.2.0/28 192.0.2.1/32 2001:db8::/64 fe80::/10] prefix[0.0.0.0/0{0,0}] accept
if peer[192.0.2.2/32] nexthop[192.0.2.2/32 fe80::/10] prefix[0.0.0.0/0{0,0}] accept
if peer[192.0.2.3/32 fe80::a/128] prefix[0.0.0.0/0{0,0}] accept
if peer[192.0.2.1/32] nexthop[192.0.2.0/28 192.0.2.1/32 2001:db8::/64 fe80::/10] prefix[10.0.0.0/8{16,24}] accept
if peer[192.0.2.2/32] nexthop[192.0.2.2/32 fe80::/10] prefix[10.0.0.0/8{16,24}] accept
if peer[192.0.2.3/32 fe80::a/128] prefix[10.0.0.0/8{16,24}] accept
`,
		},
		{
			name: "explicit next hop", config: Config{Policy: HostPolicy{}, Peers: peers}, set: explicit,
			imports: "if local accept\n",
			exports: "if local prefix[2001:db8:f::/48{48,48}] accept\n",
		},
		{
			name: "transit", config: Config{Policy: TransitPolicy{}, Peers: peers},
			imports: "if accept\n",
			exports: "if external community[65535:65282] reject\nif peer[192.0.2.2/32] ipv6 reject\nif peer[192.0.2.1/32] ipv6 set nexthop 2001:db8::1 accept\nif accept\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ps := buildPolicies(tc.config, tc.set)
			if got := text(ps, importPolicy); got != tc.imports {
				t.Errorf("import:\n%swant:\n%s", got, tc.imports)
			}
			if got := text(ps, exportPolicy); got != tc.exports {
				t.Errorf("export:\n%swant:\n%s", got, tc.exports)
			}
			want := api.RouteAction_REJECT
			if tc.config.Policy == (TransitPolicy{}) {
				want = api.RouteAction_ACCEPT
			}
			for _, a := range ps.assignments {
				if a.DefaultAction != want {
					t.Errorf("default of %s: %s", a.Policies[0].Name, a.DefaultAction)
				}
			}
		})
	}
}

// What may be re-applied to running sessions follows from which digests change.
func TestPolicyDigests(t *testing.T) {
	peer := Peer{Address: netip.MustParseAddr("192.0.2.1"), ASN: 1}
	base := Config{Policy: HostPolicy{Import: []ImportRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}}, Peers: []Peer{peer}}
	a := buildPolicies(base, announcements("10.1.0.0/26"))
	if b := buildPolicies(base, announcements("10.1.0.0/26")); strings.Join(a.mark(), " ") != strings.Join(b.mark(), " ") {
		t.Error("the same input gives different digests")
	}
	more := buildPolicies(base, announcements("10.1.0.0/26", "2001:db8::/64"))
	if more.digest == a.digest || more.imports[peer.Address] != a.imports[peer.Address] || more.exports[peer.Address] != a.exports[peer.Address] {
		t.Error("announcements must change the whole digest only")
	}
	hop := base
	hop.Peers = []Peer{{Address: peer.Address, ASN: 1, NextHop6: netip.MustParseAddr("2001:db8::1")}}
	if b := buildPolicies(hop, nil); b.imports[peer.Address] != a.imports[peer.Address] || b.exports[peer.Address] == a.exports[peer.Address] {
		t.Error("a peer's next hop must change its export digest only")
	}
	rules := base
	rules.Policy = HostPolicy{}
	if b := buildPolicies(rules, announcements("10.1.0.0/26")); b.imports[peer.Address] == a.imports[peer.Address] || b.exports[peer.Address] != a.exports[peer.Address] {
		t.Error("import rules must change the import digest only")
	}
	// Another peer, found later, is none of the first one's business, unless our address on its link is one that nobody may name.
	for _, other := range []Peer{{Address: netip.MustParseAddr("fe80::1%eth1")}, {Address: netip.MustParseAddr("192.0.2.9"), ASN: 2}} {
		two := base
		two.Peers = []Peer{peer, other}
		b := buildPolicies(two, nil)
		if b.imports[peer.Address] != a.imports[peer.Address] {
			t.Errorf("another peer, %s, must not change the first one's import digest", other.Address)
		}
		if b.imports[other.Address] == b.imports[peer.Address] {
			t.Errorf("peers %s and %s share a digest", peer.Address, other.Address)
		}
		if other.Address.Is6() {
			continue
		}
		two.Peers = []Peer{peer, other}
		two.Peers[1].Subnets = prefixList("192.0.2.8/31")
		if c := buildPolicies(two, nil); (c.imports[peer.Address] == a.imports[peer.Address]) || c.imports[other.Address] == b.imports[other.Address] {
			t.Errorf("an address of ours on the link to %s must change both digests", other.Address)
		}
	}
}
