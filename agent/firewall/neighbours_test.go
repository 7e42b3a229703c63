package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/spoof"
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
	linkLocal  = netip.MustParseAddr("fe80::bad")
)

// attacker is a container that speaks for others on its link.
type attacker struct {
	t    *testing.T
	r    *rig
	link *spoof.Link
	sink *spoof.Sink
	n    uint32
}

func newAttacker(t *testing.T, r *rig) *attacker {
	// What it sends by right, to see that all before has been handled, has somebody to take it: nothing comes back.
	if err := r.other.Do(func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 9999})
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return &attacker{t: t, r: r, link: link(t, r.box), sink: sink(t)(spoof.OnLink(r.other, "eth0"))}
}

func (a *attacker) arp(to net.HardwareAddr, operation uint16, sender, target netip.Addr) {
	a.t.Helper()
	if err := a.link.Send(to, unix.ETH_P_ARP, spoof.ARP(operation, a.link.MAC, sender, to, target)); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attacker) discovery(kind byte, from, to, target netip.Addr) {
	a.t.Helper()
	if err := a.link.SendIP(endpoint.HostMAC(), spoof.Discovery(kind, from, to, target, a.link.MAC)); err != nil {
		a.t.Fatal(err)
	}
}

// handled waits until the host has had all that was sent.
func (a *attacker) handled() {
	a.t.Helper()
	a.n++
	p := spoof.Packet{Kind: spoof.UDP, From: box4, To: other4, Port: 9999, Number: a.n}
	if err := a.link.SendPacket(endpoint.HostMAC(), p); err != nil {
		a.t.Fatal(err)
	}
	nstest.Eventually(a.t, patience, func() error {
		if !a.sink.Saw(p) {
			return fmt.Errorf("%s did not arrive", p)
		}
		return nil
	})
}

// undefended takes the table away, and lets the host listen to ARP on the container's link. With that change the kernel forgets
// the link's neighbours, which are then made again.
func (r *rig) undefended(t *testing.T) {
	r.firewall.SetPolicy(firewall.Policy{})
	ip(t, r.host, "link set "+r.boxLink+" arp on")
	for _, a := range []netip.Addr{box4, box6} {
		ip(t, r.host, fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", a, endpoint.ContainerMAC(box4), r.boxLink))
	}
}

func neighbours(t *testing.T, ns netns.NS) []string {
	return strings.Split(strings.TrimSpace(ip(t, ns, "neigh show nud all")), "\n")
}

// TestNobodyIsPoisoned has a container claim the addresses of everybody around, in all the ways there are, with the host's
// defences and without. What the host and the others know stays: the neighbours that matter are permanent.
func TestNobodyIsPoisoned(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true})
	a := newAttacker(t, r)
	for _, to := range []netip.Addr{www4, www6} { // so that the host knows its ToR
		echoed(t, r.other, r.tor, to, 1)
	}
	for _, defended := range []bool{true, false} {
		if !defended {
			r.undefended(t)
		}
		others := ip(t, r.other, "neigh show nud permanent")
		known := ip(t, r.host, "neigh show nud permanent")
		for _, claimed := range []netip.Addr{endpoint.GatewayV4, other4, host4, uplink4, tor4, far4} {
			for _, to := range []net.HardwareAddr{endpoint.HostMAC(), spoof.Broadcast} {
				a.arp(to, spoof.Reply, claimed, host4)
				a.arp(to, spoof.Reply, claimed, claimed) // gratuitous
				a.arp(to, spoof.Request, claimed, claimed)
				a.arp(to, spoof.Request, claimed, host4)
			}
		}
		for _, claimed := range []netip.Addr{endpoint.GatewayV6, other6, host6, uplink6, tor6, far6} {
			for _, from := range []netip.Addr{claimed, linkLocal, box6} {
				a.discovery(spoof.NeighborAdvertisement, from, allNodes, claimed)
				a.discovery(spoof.NeighborAdvertisement, from, host6, claimed)
				a.discovery(spoof.NeighborSolicitation, from, host6, host6)
			}
		}
		for _, from := range []netip.Addr{endpoint.GatewayV6, linkLocal} {
			a.discovery(spoof.RouterAdvertisement, from, allNodes, netip.Addr{})
		}
		a.handled()
		if now := ip(t, r.other, "neigh show nud permanent"); now != others {
			t.Errorf("defended %t: another container knew\n%sand now\n%s", defended, others, now)
		}
		if now := ip(t, r.host, "neigh show nud permanent"); now != known {
			t.Errorf("defended %t: the host knew\n%sand now\n%s", defended, known, now)
		}
		for _, n := range neighbours(t, r.host) {
			if strings.Contains(n, " dev uplink ") && strings.Contains(n, a.link.MAC.String()) {
				t.Errorf("defended %t: the host looks for a neighbour of its uplink at the attacker: %s", defended, n)
			}
		}
		if out := ip(t, r.host, "-6 route show default"); strings.Contains(out, r.boxLink) {
			t.Errorf("defended %t: the attacker is the host's router: %s", defended, out)
		}
		for _, to := range []netip.Addr{www4, www6} {
			echoed(t, r.other, r.tor, to, 100)
		}
		echoed(t, r.tor, r.other, other4, 100)
		echoed(t, r.tor, r.other, other6, 100)
		echoed(t, r.host, r.box, box4, 100)
	}
}

// TestNobodyAnswers asks the host for everybody's MAC address. Without its defences it would tell of its own addresses, on
// whatever link they are.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true})
	a := newAttacker(t, r)
	heard := sink(t)(spoof.OnLink(r.box, "eth0"))
	ask := func() int {
		before := heard.Answers()
		for _, wanted := range []netip.Addr{endpoint.GatewayV4, other4, tor4, far4, www4, host4, uplink4} {
			a.arp(spoof.Broadcast, spoof.Request, box4, wanted)
		}
		for _, wanted := range []netip.Addr{endpoint.GatewayV6, other6, tor6, far6, www6, host6, uplink6} {
			a.discovery(spoof.NeighborSolicitation, box6, wanted, wanted)
			a.discovery(spoof.NeighborSolicitation, linkLocal, wanted, wanted)
		}
		a.discovery(spoof.RouterSolicitation, linkLocal, allRouters, netip.Addr{})
		a.handled()
		// What the host has to say, it has said when it answers this.
		echoed(t, r.box, r.host, host4, 1)
		echoed(t, r.box, r.host, host6, 1)
		return heard.Answers() - before
	}
	if n := ask(); n != 0 {
		t.Errorf("the host answered %d times", n)
	}
	r.undefended(t)
	n := ask()
	t.Logf("without its defences the host answers %d times", n)
	if n < 2 {
		t.Error("so this test shows nothing")
	}
}

// TestNeighbourTableIsNotFilled: the kernel's neighbour table has room for 1,024 strangers by default, on all links together.
func TestNeighbourTableIsNotFilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true})
	a := newAttacker(t, r)
	const n = 100
	flood := func() (strangers int) {
		t.Helper()
		four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::bad:0")
		for range n {
			a.arp(spoof.Broadcast, spoof.Request, four, host4)
			a.discovery(spoof.RouterSolicitation, six, allRouters, netip.Addr{})
			four, six = four.Next(), six.Next()
		}
		a.handled()
		for _, n := range neighbours(t, r.host) {
			if strings.HasPrefix(n, "192.0.2.") || strings.HasPrefix(n, "fe80::bad:") {
				strangers++
			}
		}
		return strangers
	}
	if got := flood(); got > 0 {
		t.Errorf("the host remembers %d strangers", got)
	}
	r.undefended(t)
	got := flood()
	t.Logf("without its defences the host remembers %d strangers of %d", got, 2*n)
	if got < n {
		t.Error("so this test shows nothing")
	}
}
