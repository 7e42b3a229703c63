package hosts

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/hostfabric/hostfabric/agent/dns"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
)

// want asks for a host, or for an address if name is one.
func want(t *testing.T, d *Directory, what, text string) {
	t.Helper()
	servers, err := d.Host(what)
	if addr, bad := netip.ParseAddr(what); bad == nil {
		servers, err = d.Address(addr)
	}
	got := fmt.Sprint(servers)
	switch {
	case errors.Is(err, dns.ErrUnknown):
		got = "unknown"
	case errors.Is(err, dns.ErrUnsure):
		got = "unsure"
	case err != nil:
		got = err.Error()
	}
	if got != text {
		t.Errorf("%s: %s, want %s", what, got, text)
	}
}

func route(host, prefix string, own ...netip.Addr) bgp.LearnedRoute {
	return bgp.LearnedRoute{Prefix: pfx(prefix), Marks: Marks(admin, host, pfx(prefix), own)}
}

// ready is a directory that has heard all that the fabric has to say.
func ready(opts Options) *Directory {
	d := New(opts)
	d.Session(bgp.PeerStatus{Address: netip.MustParseAddr("10.0.0.1"), State: bgp.StateEstablished})
	d.Speaker(bgp.Status{Connected: true, Synced: true})
	return d
}

func learn(d *Directory, routes ...bgp.LearnedRoute) { d.Learned(routes, nil) }

// TestHostsByRoutes follows hosts as they come, grow, move and go.
func TestHostsByRoutes(t *testing.T) {
	d := ready(Options{})
	want(t, d, "r1h1", "unknown")
	want(t, d, "10.64.0.9", "unknown")
	learn(d, route("r1h1", "10.64.0.0/26", addrs("10.64.0.0")...), route("r1h2", "10.64.0.64/26", addrs("10.64.0.64")...))
	want(t, d, "r1h1", "[10.64.0.0]")
	want(t, d, "R1H2", "[10.64.0.64]")
	want(t, d, "r1h3", "unknown")
	want(t, d, "10.64.0.9", "[10.64.0.0]")
	want(t, d, "::ffff:10.64.0.70", "[10.64.0.64]")
	want(t, d, "10.64.0.128", "unknown")

	// A second family, and a block apart that has no server of its own.
	learn(d, route("r1h1", "fd00:64::/64", addrs("10.64.0.0", "fd00:64::")...), route("r1h1", "10.65.0.0/26", addrs("10.64.0.0")...))
	want(t, d, "r1h1", "[10.64.0.0 fd00:64::]")
	want(t, d, "10.65.0.1", "[10.64.0.0 fd00:64::]")
	want(t, d, "fd00:64::1", "[10.64.0.0 fd00:64::]")

	// A prefix inside another's, as for a moment when a block has changed hands: the longer one counts.
	learn(d, route("r1h1", "10.64.0.0/25", addrs("10.64.0.0")...))
	want(t, d, "10.64.0.70", "[10.64.0.64]")
	d.Learned(nil, []netip.Prefix{pfx("10.64.0.64/26")})
	want(t, d, "10.64.0.70", "[10.64.0.0 fd00:64::]")
	want(t, d, "r1h2", "unknown")

	// The host's address moves: the communities of its prefixes change.
	learn(d, route("r1h1", "10.64.0.0/25", addrs("10.64.0.64")...), route("r1h1", "10.64.0.0/26"))
	want(t, d, "r1h1", "[10.64.0.64 fd00:64::]")

	// What announces a prefix without marks, or with those of others alone, is no host of ours.
	learn(d, bgp.LearnedRoute{Prefix: pfx("10.66.0.0/26")})
	want(t, d, "10.66.0.1", "unknown")

	d.Learned(nil, []netip.Prefix{pfx("10.64.0.0/25"), pfx("10.64.0.0/26"), pfx("10.65.0.0/26"), pfx("fd00:64::/64"), pfx("10.67.0.0/26")})
	want(t, d, "r1h1", "unknown")
	want(t, d, "10.64.0.9", "unknown")
	if l := d.learned; len(l.known)+len(l.serving)+len(l.prefixes.owners) > 0 {
		t.Errorf("something is kept of hosts that have gone: %+v", l)
	}
}

// TestOneHashTwoHosts: who has the name is for the hosts to say.
func TestOneHashTwoHosts(t *testing.T) {
	d := ready(Options{})
	for _, p := range []string{"10.64.0.0/26", "10.64.0.64/26"} {
		learn(d, route("twin", p, pfx(p).Addr()))
	}
	want(t, d, "twin", "[10.64.0.0 10.64.0.64]")
	want(t, d, "10.64.0.70", "[10.64.0.0 10.64.0.64]")
	for i := range 100 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 70, byte(i), 0}), 26)
		learn(d, route("crowd", p.String(), p.Addr()))
	}
	if servers, err := d.Host("crowd"); err != nil || len(servers) != maxServers {
		t.Errorf("%v, %v: want %d servers", servers, err, maxServers)
	}
}

// TestUnsure: whether there is a host is said when all is heard, and not before.
func TestUnsure(t *testing.T) {
	d := New(Options{Claims: true})
	tor := bgp.PeerStatus{Address: netip.MustParseAddr("10.0.0.1"), State: bgp.StateEstablished}
	want(t, d, "r1h1", "unsure")
	d.Session(tor)
	d.Speaker(bgp.Status{Connected: true})
	learn(d, route("r1h2", "10.64.0.64/26", addrs("10.64.0.64")...))
	want(t, d, "r1h2", "[10.64.0.64]") // what is heard is true
	want(t, d, "r1h1", "unsure")
	d.Speaker(bgp.Status{Connected: true, Synced: true})
	want(t, d, "r1h1", "unknown")
	d.Learned(nil, []netip.Prefix{pfx("10.64.0.64/26")})
	want(t, d, "r1h1", "unsure") // nobody is announced: the claims have to say
	d.SetClaims(nil, nil)
	want(t, d, "r1h1", "unknown")
	learn(d, route("r1h2", "10.64.0.64/26", addrs("10.64.0.64")...))
	want(t, d, "10.64.0.1", "unknown")
	tor.State = bgp.StateIdle
	d.Session(tor)
	want(t, d, "r1h1", "unsure")
	want(t, d, "10.64.0.1", "unsure")
	want(t, d, "10.64.0.65", "[10.64.0.64]") // a stale route is one still
	tor.State = bgp.StateEstablished
	d.Session(tor)
	d.Speaker(bgp.Status{})
	d.Speaker(bgp.Status{Connected: true, Synced: true})
	want(t, d, "r1h1", "unsure") // of the new speaker's sessions nothing is known
	d.Session(tor)
	want(t, d, "r1h1", "unknown")
	d.SetPeers([]netip.Addr{netip.MustParseAddr("10.0.0.2")}, 0) // another router has its place
	want(t, d, "r1h1", "unsure")
	d.SetPeers(nil, 1)
	want(t, d, "r1h1", "unsure")
	d.SetPeers(nil, 0)
	want(t, d, "r1h1", "unknown")

	// One that is known to be there, but not on which address it answers.
	learn(d, route("mute", "10.64.1.0/26"))
	want(t, d, "mute", "unsure")
	want(t, d, "10.64.1.1", "unsure")
}

// TestHostsByList: the configuration has the last word on those that it names.
func TestHostsByList(t *testing.T) {
	d := ready(Options{})
	d.SetListed([]Listed{
		{Name: "R1h1", Servers: addrs("192.0.2.1", "2001:db8::1"), Blocks: []netip.Prefix{pfx("10.64.0.0/26")}},
		{Name: "r1h2", Servers: addrs("192.0.2.2")},
	})
	learn(d, route("r1h1", "10.64.0.0/25", addrs("10.64.0.0")...), route("r1h3", "10.64.1.0/26", addrs("10.64.1.0")...))
	want(t, d, "r1h1", "[192.0.2.1 2001:db8::1]")
	want(t, d, "r1h2", "[192.0.2.2]")
	want(t, d, "r1h3", "[10.64.1.0]")
	want(t, d, "r1h4", "unknown")
	want(t, d, "10.64.0.1", "[192.0.2.1 2001:db8::1]")
	want(t, d, "10.64.0.70", "[10.64.0.0]") // a host's hash may be another's too
	d.SetListed(nil)
	want(t, d, "r1h1", "[10.64.0.0]")
	want(t, d, "r1h2", "unknown")
}

// TestHostsByClaims: hosts that no route tells of are known by etcd.
func TestHostsByClaims(t *testing.T) {
	d := ready(Options{Claims: true})
	claim := func(host, id, prefix string) ipam.Claim { return ipam.Claim{Host: host, ID: id, Prefix: pfx(prefix)} }
	claims := []ipam.Claim{
		claim("r1h1", "a", "10.64.0.0/26"), claim("r1h1", "a", "10.64.2.0/26"), claim("r1h1", "a", "fd00:64::/64"),
		claim("r1h2", "b", "10.64.0.64/26"), claim("r1h2", "c", "10.64.0.128/26"), claim("", "", "10.64.3.0/26"), claim("mute", "m", "10.64.4.0/26"),
	}
	known := []ipam.Host{
		{Name: "r1h1", ID: "a", Addresses: addrs("10.64.0.0", "fd00:64::", "10.64.0.64", "198.51.100.1"), Revision: 5}, // some not its own
		{Name: "r1h2", ID: "b", Addresses: addrs("10.64.0.64"), Revision: 6},
		{Name: "r1h2", ID: "c", Addresses: addrs("10.64.0.128"), Revision: 7}, // set up anew
		{Name: "gone", ID: "g", Addresses: addrs("10.64.0.0"), Revision: 8},
	}
	d.SetClaims(claims, known)
	want(t, d, "R1H1", "[10.64.0.0 fd00:64::]")
	want(t, d, "r1h2", "[10.64.0.128 10.64.0.64]") // the one that spoke last first
	want(t, d, "10.64.2.9", "[10.64.0.0 fd00:64::]")
	want(t, d, "10.64.0.70", "[10.64.0.64]")
	want(t, d, "10.64.3.1", "unsure")
	want(t, d, "mute", "unsure")
	want(t, d, "gone", "unknown")
	want(t, d, "10.65.0.1", "unknown")

	// What is announced comes first, and what is claimed too is tried after it.
	learn(d, route("r1h2", "10.64.0.128/26", addrs("10.64.0.128")...))
	want(t, d, "r1h2", "[10.64.0.128 10.64.0.64]")
	learn(d, route("r1h2", "10.64.0.64/26", addrs("10.64.0.64")...))
	want(t, d, "r1h2", "[10.64.0.64 10.64.0.128]")
}

// TestManyAtOnce asks while everything changes.
func TestManyAtOnce(t *testing.T) {
	d := ready(Options{Claims: true})
	d.SetClaims(nil, nil)
	learn(d, route("stable", "10.64.0.0/26", addrs("10.64.0.0")...))
	var changing sync.WaitGroup
	for i := range 4 {
		changing.Go(func() {
			for j := range 200 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 65, byte(i), 0}), 26)
				learn(d, route(fmt.Sprint("h", j), p.String(), p.Addr()))
				d.Learned(nil, []netip.Prefix{p})
				d.SetListed([]Listed{{Name: "listed", Servers: addrs("192.0.2.1")}})
				d.SetClaims([]ipam.Claim{{Host: "claimed", ID: "a", Prefix: pfx("10.66.0.0/26")}}, nil)
			}
		})
	}
	for range 1000 {
		want(t, d, "stable", "[10.64.0.0]")
		want(t, d, "10.64.0.1", "[10.64.0.0]")
		want(t, d, "10.67.0.1", "unknown")
	}
	changing.Wait()
}

// BenchmarkDirectory asks among 10,000 hosts.
func BenchmarkDirectory(b *testing.B) {
	d := ready(Options{})
	for i := range 10000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i>>10), byte(i >> 2), byte(i << 6)}), 26)
		learn(d, route(fmt.Sprint("h", i), p.String(), p.Addr()))
	}
	b.Run("host", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := d.Host("h4711"); err != nil {
					b.Error(err)
				}
			}
		})
	})
	addr := netip.MustParseAddr("10.66.0.1")
	b.Run("address", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := d.Address(addr); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
