package bgp

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

func learned(prefix, hop, from string) *api.Path {
	p := Announcement{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(hop)}.path()
	p.NeighborIp = from
	return p
}

func told(v *view) string {
	up, down := v.flush()
	var out []string
	for _, r := range up {
		out = append(out, fmt.Sprintf("+%s%v", r.Prefix, r.NextHops))
	}
	for _, p := range down {
		out = append(out, "-"+p.String())
	}
	return strings.Join(out, " ")
}

func TestView(t *testing.T) {
	v := newView(slog.New(slog.DiscardHandler), 0)
	v.configure(Config{Multipath: 2, Peers: []Peer{
		{Address: netip.MustParseAddr("fe80::a%eth0")},
		{Address: netip.MustParseAddr("fe80::b%eth0")}, {Address: netip.MustParseAddr("fe80::b%eth1")},
	}})
	gone := learned("10.1.0.0/24", "10.0.0.1", "10.0.0.1")
	gone.IsWithdraw = true
	steps := []struct {
		what  string
		paths []*api.Path
		want  string
	}{
		{"a set of legs is one route, sorted", []*api.Path{learned("10.1.0.0/24", "10.0.0.2", "10.0.0.2"), learned("10.1.0.0/24", "10.0.0.1", "10.0.0.1")}, "+10.1.0.0/24[10.0.0.1 10.0.0.2]"},
		{"the same again is no news", []*api.Path{learned("10.1.0.0/24", "10.0.0.1", "10.0.0.1"), learned("10.1.0.0/24", "10.0.0.2", "10.0.0.2")}, ""},
		{"no more legs than multipath allows", []*api.Path{learned("10.1.0.0/24", "10.0.0.3", "x.3"), learned("10.1.0.0/24", "10.0.0.1", "10.0.0.1"), learned("10.1.0.0/24", "10.0.0.2", "10.0.0.2")}, ""},
		{"a leg goes", []*api.Path{learned("10.1.0.0/24", "10.0.0.2", "10.0.0.2")}, "+10.1.0.0/24[10.0.0.2]"},
		{"the last goes", []*api.Path{gone}, "-10.1.0.0/24"},
		{"and goes again", []*api.Path{gone}, ""},
		{"our own routes are not learned", []*api.Path{learned("10.2.0.0/24", "0.0.0.0", "<nil>")}, ""},
		{"a link-local next hop gets its link", []*api.Path{learned("2001:db8::/64", "fe80::a", "fe80::a")}, "+2001:db8::/64[fe80::a%eth0]"},
		{"of two links with it the first has a session", []*api.Path{learned("2001:db8:1::/64", "fe80::b", "fe80::b")}, "+2001:db8:1::/64[fe80::b%eth0]"},
		{"IPv6 through a mapped IPv4 next hop is left out", []*api.Path{learned("2001:db8:2::/64", "::ffff:10.0.0.1", "10.0.0.1")}, ""},
		{"IPv4 through an IPv6 next hop is not", []*api.Path{learned("10.3.0.0/24", "2001:db8::1", "2001:db8::1")}, "+10.3.0.0/24[2001:db8::1]"},
	}
	for _, s := range steps {
		for _, p := range s.paths {
			if p.NeighborIp == "x.3" {
				p.NeighborIp = "10.0.0.3"
			}
		}
		v.apply(s.paths)
		if got := told(v); got != s.want {
			t.Errorf("%s: %q, want %q", s.what, got, s.want)
		}
	}

	// Another speaker: only what it confirms stays, and nothing goes before it is complete.
	v.finish()
	v.restart()
	v.apply([]*api.Path{learned("10.3.0.0/24", "2001:db8::1", "2001:db8::1"), learned("10.4.0.0/24", "10.0.0.1", "10.0.0.1")})
	if got := told(v); got != "+10.4.0.0/24[10.0.0.1]" {
		t.Errorf("before the end: %q", got)
	}
	v.finish()
	if got := told(v); got != "-2001:db8::/64 -2001:db8:1::/64" {
		t.Errorf("at the end: %q", got)
	}
}

func TestEORTracker(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%eth0")
	var e eorTracker
	e.setPeers(nil)
	if !e.complete() {
		t.Error("without peers there is nothing to wait for")
	}
	e.setPeers([]Peer{{Address: a}, {Address: b}})
	up := func(p netip.Addr, f ...Family) {
		e.state(p, true)
		e.expect(p, f)
	}
	up(a, IPv4, IPv6)
	e.marker(a, IPv4)
	e.marker(a, IPv6)
	if e.complete() {
		t.Error("complete though a peer is not up")
	}
	up(b, IPv6)
	if e.complete() {
		t.Error("complete without the second peer's marker")
	}
	e.marker(b.WithZone(""), IPv6) // events carry no zone
	if !e.complete() {
		t.Error("not complete with all markers")
	}
	e.state(a, false)
	up(a, IPv4)
	if e.complete() {
		t.Error("markers of an earlier session count")
	}
	e.setPeers([]Peer{{Address: b}})
	if !e.complete() {
		t.Error("a removed peer is waited for")
	}
	e.state(b, false)
	up(b) // no graceful restart: no marker will come
	if e.complete() {
		t.Error("complete without a marker to expect: only the deadline may decide")
	}
}

func TestAnnouncementsSurviveTheAPI(t *testing.T) {
	list, err := normalize([]Announcement{
		{Prefix: netip.MustParsePrefix("10.1.0.77/26")},
		{Prefix: netip.MustParsePrefix("10.2.0.0/26"), NextHop: netip.MustParseAddr("10.0.0.9"), Communities: []uint32{7, 3, 7}},
		{Prefix: netip.MustParsePrefix("2001:db8::/64"), LargeCommunities: []LargeCommunity{{3, 2, 1}, {1, 2, 3}}},
		{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), NextHop: netip.MustParseAddr("2001:db8::9")},
	})
	if err != nil {
		t.Fatal(err)
	}
	have := map[netip.Prefix]Announcement{}
	for _, a := range list {
		got, ok := announcementOf(a.path())
		if !ok || !got.equal(a) {
			t.Errorf("%+v came back as %+v", a, got)
		}
		have[got.Prefix] = got
	}
	if add, del := diffAnnouncements(have, list); len(add)+len(del) > 0 {
		t.Errorf("differs from itself: add %v, delete %v", add, del)
	}
	list[1].Communities = nil
	add, del := diffAnnouncements(have, list[1:])
	if len(add) != 1 || add[0].Prefix != list[1].Prefix || len(del) != 1 || del[0] != netip.MustParsePrefix("10.1.0.64/26") {
		t.Errorf("add %v, delete %v", add, del)
	}
}

func TestNormalizeRefuses(t *testing.T) {
	pfx := netip.MustParsePrefix("10.0.0.0/24")
	for name, set := range map[string][]Announcement{
		"no prefix":       {{}},
		"twice":           {{Prefix: pfx}, {Prefix: netip.MustParsePrefix("10.0.0.1/24")}},
		"other family":    {{Prefix: pfx, NextHop: netip.MustParseAddr("::1")}},
		"mapped addresss": {{Prefix: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 120)}},
	} {
		if _, err := normalize(set); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestValidate(t *testing.T) {
	ip := netip.MustParseAddr
	good := func() Config {
		return Config{ASN: 65001, RouterID: ip("192.0.2.1"), Policy: HostPolicy{}, Peers: []Peer{{Address: ip("10.0.0.1"), ASN: 65100}}}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"asn: must not be 0":        func(c *Config) { c.ASN = 0 },
		"router id":                 func(c *Config) { c.RouterID = ip("::1") },
		"policy: must be":           func(c *Config) { c.Policy = nil },
		"configured twice":          func(c *Config) { c.Peers = append(c.Peers, c.Peers[0]) },
		"does not listen":           func(c *Config) { c.Peers[0].Passive = true },
		"the one we are to have":    func(c *Config) { c.Peers[0].LocalAS = c.Peers[0].ASN },
		"must be all, none":         func(c *Config) { c.Peers[0].Communities = "extended" },
		"must not be negative":      func(c *Config) { c.Peers[0].MaxPrefixesRestart = -1 },
		"view \"\" must be":         func(c *Config) { c.Stations = []Station{{Address: netip.MustParseAddrPort("10.0.0.9:1")}} },
		"not an address and port":   func(c *Config) { c.Stations = []Station{{View: AllViews}} },
		"needs its interface":       func(c *Config) { c.Peers[0].Address = ip("fe80::1") },
		"not a usable address":      func(c *Config) { c.Peers[0].Address = netip.Addr{} },
		"hold time 2s":              func(c *Config) { c.Peers[0].HoldTime = 2 * time.Second },
		"keepalive 10s":             func(c *Config) { c.Peers[0].Keepalive = 10 * time.Second },
		"exclude each other":        func(c *Config) { c.Peers[0].TTLSecurity, c.Peers[0].MultihopTTL = true, 3 },
		"password longer":           func(c *Config) { c.Peers[0].Password = strings.Repeat("x", 81) },
		"must be an IPv6 address":   func(c *Config) { c.Peers[0].NextHop6 = ip("10.0.0.1") },
		"not of the peer's family":  func(c *Config) { c.Peers[0].LocalAddress = ip("::1") },
		"unknown family 9":          func(c *Config) { c.Peers[0].Families = []Family{9} },
		"graceful restart time":     func(c *Config) { c.GracefulRestart.RestartTime = 2 * time.Hour },
		"graceful restart deferral": func(c *Config) { c.GracefulRestart.Deferral = time.Millisecond },
		"import rule 10.0.0.0/8": func(c *Config) {
			c.Policy = HostPolicy{Import: []ImportRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), MaxLength: 33}}}
		},
		"own space 0.0.0.0/0: must ": func(c *Config) { c.Policy = HostPolicy{OwnSpace: prefixList("0.0.0.0/0")} },
	} {
		c := good()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// Each setting of a peer must show in its shape, or a change of it would never reach the speaker.
func TestShapeSeesEverySetting(t *testing.T) {
	base := Peer{Address: netip.MustParseAddr("10.0.0.1"), ASN: 65100}
	shape := func(p Peer, g GracefulRestart) neighborShape {
		return shapeOf(neighborOf(p, Config{ASN: 65001, GracefulRestart: g}, false))
	}
	want := shape(base, GracefulRestart{})
	if shapeOf(neighborOf(base, Config{ASN: 65001}, true)) != want {
		t.Error("a restart in progress is not a difference")
	}
	for name, change := range map[string]func(*Peer, *GracefulRestart){
		"asn":        func(p *Peer, _ *GracefulRestart) { p.ASN++ },
		"external":   func(p *Peer, _ *GracefulRestart) { p.ASN = 0 },
		"local as":   func(p *Peer, _ *GracefulRestart) { p.LocalAS = 65002 },
		"password":   func(p *Peer, _ *GracefulRestart) { p.Password = "x" },
		"gtsm":       func(p *Peer, _ *GracefulRestart) { p.TTLSecurity = true },
		"multihop":   func(p *Peer, _ *GracefulRestart) { p.MultihopTTL = 4 },
		"passive":    func(p *Peer, _ *GracefulRestart) { p.Passive = true },
		"port":       func(p *Peer, _ *GracefulRestart) { p.Port = 1179 },
		"hold":       func(p *Peer, _ *GracefulRestart) { p.HoldTime = 30 * time.Second },
		"keepalive":  func(p *Peer, _ *GracefulRestart) { p.Keepalive = time.Second },
		"limit":      func(p *Peer, _ *GracefulRestart) { p.MaxPrefixes = 7 },
		"families":   func(p *Peer, _ *GracefulRestart) { p.Families = []Family{IPv6} },
		"device":     func(p *Peer, _ *GracefulRestart) { p.Interface = "eth0" },
		"no restart": func(_ *Peer, g *GracefulRestart) { g.Disabled = true },
		"helper":     func(_ *Peer, g *GracefulRestart) { g.HelperOnly = true },
		"time":       func(_ *Peer, g *GracefulRestart) { g.RestartTime = time.Minute },
		"deferral":   func(_ *Peer, g *GracefulRestart) { g.Deferral = time.Second },
	} {
		p, g := base, GracefulRestart{}
		change(&p, &g)
		if shape(p, g) == want {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestDownHeader(t *testing.T) {
	d := meta.Down{Peer: netip.MustParseAddr("fe80::1%eth0"), At: time.Unix(1700000000, 0), Reason: "sent: code 6 (cease), \"ü\""}
	got, ok := meta.ParseDown(d.Encode())
	if !ok || !reflect.DeepEqual(got, d) {
		t.Errorf("%q came back as %+v", d.Encode(), got)
	}
	for _, s := range []string{"", "x 1 y", "10.0.0.1 x y", "10.0.0.1 1 %zz"} {
		if _, ok := meta.ParseDown(s); ok {
			t.Errorf("%q accepted", s)
		}
	}
}

// What the policy let in counts as accepted, be it usable or not; a router whose routes have no usable next hop is named once.
func TestTallies(t *testing.T) {
	var log bytes.Buffer
	v := newView(slog.New(slog.NewTextHandler(&log, nil)), 0)
	v.configure(Config{Peers: []Peer{{Address: netip.MustParseAddr("fe80::a%eth0")}, {Address: netip.MustParseAddr("10.0.0.1")}}})
	gone := learned("2001:db8::/64", "::", "fe80::a")
	gone.IsWithdraw = true
	for _, step := range []struct {
		what  string
		paths []*api.Path
		told  string
		want  string // accepted/unusable of fe80::a, of 10.0.0.1, and all paths, of IPv6
	}{
		{"a router without a global address", []*api.Path{learned("2001:db8::/64", "::", "fe80::a")}, "+2001:db8::/64[fe80::a%eth0]", "1/0 0/0 1"},
		{"a leg through IPv4", []*api.Path{learned("2001:db8::/64", "::", "fe80::a"), learned("2001:db8::/64", "::ffff:10.0.0.1", "10.0.0.1")}, "", "1/0 1/1 2"},
		{"nothing but that", []*api.Path{learned("2001:db8:1::/64", "::ffff:10.0.0.1", "10.0.0.1")}, "", "1/0 2/2 3"},
		{"no next hop at all", []*api.Path{learned("2001:db8:1::/64", "::", "10.0.0.1")}, "", "1/0 2/2 3"},
		{"our own", []*api.Path{learned("2001:db8:2::/64", "::", "<nil>")}, "", "1/0 2/2 4"},
		{"IPv4 is apart", []*api.Path{learned("10.1.0.0/24", "10.0.0.1", "10.0.0.1")}, "+10.1.0.0/24[10.0.0.1]", "1/0 2/2 4"},
		{"both legs gone", []*api.Path{gone}, "-2001:db8::/64", "0/0 1/1 2"},
	} {
		v.apply(step.paths)
		if got := told(v); got != step.told {
			t.Errorf("%s: told %q, want %q", step.what, got, step.told)
		}
		a, b := v.tallies.of(netip.MustParseAddr("fe80::a%eth0"), IPv6), v.tallies.of(netip.MustParseAddr("10.0.0.1"), IPv6)
		if got := fmt.Sprintf("%d/%d %d/%d %d", a.accepted, a.unusable, b.accepted, b.unusable, v.tallies.total(IPv6)); got != step.want {
			t.Errorf("%s: counts %s, want %s", step.what, got, step.want)
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "peer=10.0.0.1") {
		t.Errorf("%d warnings:\n%s", n, &log)
	}
	v.restart()
	if n := v.tallies.total(IPv6) + v.tallies.total(IPv4); n != 0 {
		t.Errorf("%d paths counted after a change of speaker", n)
	}
}
