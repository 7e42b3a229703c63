package bgp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestGuard(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	g := newGuard()
	g.now = func() time.Time { return now }
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	due := func() string {
		list, next := g.due()
		return fmt.Sprint(list, next)
	}
	wait := func(d time.Duration, first time.Duration, want string) {
		t.Helper()
		now = now.Add(d)
		if !g.shut(a, "", first) || g.shut(a, "", first) {
			t.Error("told twice, or not at all")
		}
		if got := due(); got != want {
			t.Errorf("due %s, want %s", got, want)
		}
	}
	start := func(after time.Duration) {
		t.Helper()
		now = now.Add(after)
		if got := due(); got != "[10.0.0.1] 0s" {
			t.Errorf("after %s: due %s", after, got)
		}
		g.started(a)
		if got := due(); got != "[] 0s" {
			t.Errorf("once started: due %s", got)
		}
	}
	wait(0, 20*time.Minute, "[] 20m0s")
	start(20 * time.Minute)
	wait(5*time.Second, 20*time.Minute, "[] 40m0s") // again, and soon
	start(40 * time.Minute)
	wait(79*time.Minute, 20*time.Minute, "[] 1h0m0s") // no longer than an hour
	start(time.Hour)
	wait(121*time.Minute, 20*time.Minute, "[] 20m0s") // it was well for long enough
	start(20 * time.Minute)
	wait(time.Hour, 0, "[] 0s") // until an operator

	list := []PeerStatus{{Address: a, State: StatePrefixLimit, LastDown: "too many"}, {Address: b, State: StateActive, LastDown: "refused"}}
	g.fill(list)
	if list[0].LastDown != "too many; stays down until it is reset" || !list[0].Restart.IsZero() || list[1].LastDown != "refused" {
		t.Errorf("%+v", list)
	}
	g.started(a)
	wait(0, 90*time.Minute, "[] 1h30m0s") // a longer first wait is kept to
	list = []PeerStatus{{Address: a, State: StatePrefixLimit, LastDown: "too many"}}
	now = now.Add(time.Minute)
	g.fill(list)
	if list[0].LastDown != "too many; tried again in 1h29m0s" || !list[0].Restart.Equal(now.Add(89*time.Minute)) {
		t.Errorf("%+v", list)
	}

	// Losses are counted, hastened only once in a while, and forgotten with the peer.
	if !g.hasty(b, true) || g.hasty(b, true) || !g.hasty(b, false) || g.hasty(b, false) {
		t.Error("hastened at once again, or never")
	}
	now = now.Add(hasteInterval)
	if !g.hasty(b, true) {
		t.Error("not hastened after a while")
	}
	for range 3 {
		g.flapped(b)
	}
	list = []PeerStatus{{Address: b, Flaps: 1}}
	if g.fill(list); list[0].Flaps != 3 {
		t.Errorf("%d flaps", list[0].Flaps)
	}
	g.keep(nil)
	if len(g.rests)+len(g.lost)+len(g.tried)+len(g.flaps) != 0 {
		t.Error("a peer that is gone is remembered")
	}
}

func TestSplit(t *testing.T) {
	peer := func(a, pending string) Peer { return Peer{Address: netip.MustParseAddr(a), Pending: pending} }
	c := Config{Peers: []Peer{
		peer("10.0.0.1", ""), peer("fe80::%eth2", "no router heard on eth2"), peer("fe80::1%eth0", ""), peer("fe80::1%eth1", ""), peer("fe80::2%eth3", ""),
	}}
	found, waiting := c.split()
	var got []string
	for _, p := range found {
		got = append(got, p.Address.String())
	}
	for _, p := range waiting {
		got = append(got, p.Address.String()+": "+p.Pending)
	}
	want := "[10.0.0.1 fe80::1%eth0 fe80::2%eth3 fe80::%eth2: no router heard on eth2 fe80::1%eth1: the router on eth0 has the same link-local address]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestLinkLocalNames: GoBGP knows a peer that we dial without its zone, and one that dials us with it.
func TestLinkLocalNames(t *testing.T) {
	for _, tt := range []struct {
		peer         Peer
		name, device string
	}{
		{Peer{Address: netip.MustParseAddr("fe80::1%eth0")}, "fe80::1", "eth0"},
		{Peer{Address: netip.MustParseAddr("fe80::1%eth0"), Passive: true}, "fe80::1%eth0", ""},
		{Peer{Address: netip.MustParseAddr("fd00::1"), Interface: "eth0"}, "fd00::1", "eth0"},
	} {
		n := neighborOf(tt.peer, Config{ASN: 65001}, false)
		back, ok := peerAddr(n)
		if n.Conf.NeighborAddress != tt.name || n.Transport.BindInterface != tt.device || !ok || back != tt.peer.Address {
			t.Errorf("%s passive=%t: name %s, device %q, back as %s", tt.peer.Address, tt.peer.Passive, n.Conf.NeighborAddress, n.Transport.BindInterface, back)
		}
	}
	if name := nameOf(neighborOf(Peer{Address: netip.MustParseAddr("10.0.0.1")}, Config{}, false)); name != "10.0.0.1" {
		t.Errorf("name %s", name)
	}
}
