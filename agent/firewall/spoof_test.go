package firewall_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/spoof"
)

// liar is a source that is not the container's.
type liar struct {
	what string
	from netip.Addr
	// martian: the kernel drops it by itself as well. early: before any table sees it.
	martian, early bool
}

var liars = []liar{
	{what: "another container", from: other4},
	{what: "a container of another host", from: far4},
	{what: "the host, its fabric address", from: host4, martian: true},
	{what: "the host, its uplink's address", from: uplink4, martian: true},
	{what: "the ToR", from: tor4},
	{what: "an address of the block that nobody has", from: netip.MustParseAddr("10.64.0.33")},
	{what: "somebody far away", from: www4},
	{what: "the gateway", from: endpoint.GatewayV4},
	{what: "an unrouted private address", from: netip.MustParseAddr("192.168.7.7")},
	{what: "the loopback", from: netip.MustParseAddr("127.0.0.1"), martian: true},
	{what: "nobody", from: netip.IPv4Unspecified(), martian: true},
	{what: "a group", from: netip.MustParseAddr("224.0.0.5"), martian: true},
	{what: "everybody", from: netip.MustParseAddr("255.255.255.255"), martian: true},

	{what: "another container", from: other6},
	{what: "a container of another host", from: far6},
	{what: "the host, its fabric address", from: host6},
	{what: "the host, its uplink's address", from: uplink6},
	{what: "the ToR", from: tor6},
	{what: "an address of the block that nobody has", from: netip.MustParseAddr("fd00:64::bad")},
	{what: "somebody far away", from: www6},
	{what: "the gateway, off the link", from: endpoint.GatewayV6},
	{what: "a link-local address, off the link", from: netip.MustParseAddr("fe80::bad")},
	{what: "the loopback", from: netip.IPv6Loopback(), martian: true, early: true},
	{what: "nobody, off the link", from: netip.IPv6Unspecified()},
	{what: "an IPv4-mapped address", from: netip.MustParseAddr("::ffff:10.64.0.2")},
	{what: "a group", from: netip.MustParseAddr("ff05::5"), martian: true, early: true},
}

// TestSpoofing sends packets of every kind and from every wrong source to another container, to another host and to this one.
// None arrives, each is counted, and the same sent without the table show what it is for.
func TestSpoofing(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true})
	l, open := link(t, r.box), sink(t)
	inside, outside, here := open(spoof.OnLink(r.other, "eth0")), open(spoof.OnLink(r.tor, "host")), open(spoof.Delivered(r.host))
	targets := []struct {
		v4, v6 netip.Addr
		sink   *spoof.Sink
	}{{other4, other6, inside}, {www4, www6, outside}, {host4, host6, here}, {uplink4, uplink6, here}}
	var number uint32
	// send sends one of each kind to each target, and returns those that the target has not seen, once what was sent by right
	// after them is there.
	send := func(of liar) (lost, came []spoof.Packet) {
		t.Helper()
		sinks := map[uint32]*spoof.Sink{}
		one := func(kind spoof.Kind, from, to netip.Addr, at *spoof.Sink) spoof.Packet {
			number++
			p := spoof.Packet{Kind: kind, From: from, To: to, Port: 9999, Number: number}
			if err := l.SendPacket(endpoint.HostMAC(), p); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			sinks[number] = at
			return p
		}
		var sent, honest []spoof.Packet
		for _, to := range targets {
			addr, right := to.v4, box4
			if of.from.Is6() {
				addr, right = to.v6, box6
			}
			for _, kind := range spoof.Kinds {
				sent = append(sent, one(kind, of.from, addr, to.sink))
			}
			honest = append(honest, one(spoof.UDP, right, addr, to.sink))
		}
		nstest.Eventually(t, patience, func() error {
			for _, p := range honest {
				if !sinks[p.Number].Saw(p) {
					return fmt.Errorf("%s did not arrive", p)
				}
			}
			return nil
		})
		for _, p := range sent {
			if sinks[p.Number].Saw(p) {
				came = append(came, p)
			} else {
				lost = append(lost, p)
			}
		}
		return lost, came
	}

	var want firewall.Dropped
	for _, of := range liars {
		lost, came := send(of)
		for _, p := range came {
			t.Errorf("%s (%s) arrived", p, of.what)
		}
		switch {
		case of.early:
		case of.from.Is4():
			want.SpoofedIPv4 += uint64(len(lost))
		default:
			want.SpoofedIPv6 += uint64(len(lost))
		}
		if got := r.dropped(t); got != want {
			t.Errorf("after packets from %s (%s) %+v were counted, want %+v", of.from, of.what, got, want)
			want = got
		}
	}
	t.Logf("%d IPv4 and %d IPv6 packets with %d wrong sources: none arrived", want.SpoofedIPv4, want.SpoofedIPv6, len(liars))

	r.firewall.SetPolicy(firewall.Policy{})
	for _, of := range liars {
		lost, came := send(of)
		if of.martian && len(came) > 0 {
			t.Errorf("without the table, %s (%s) arrived: it is no martian", came, of.what)
		}
		if !of.martian && len(came) == 0 {
			t.Errorf("without the table, none of %s (%s) arrived: this test shows nothing", lost, of.what)
		}
	}
}
