package main

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
)

func TestSessionsAreTold(t *testing.T) {
	tor1, tor2 := netip.MustParseAddr("10.0.1.0"), netip.MustParseAddr("10.0.2.0")
	before, now := time.Now().Add(-time.Hour), time.Now()
	ledger := &historytest.Ledger{}
	l := newSessionLog(ledger, history.SessionUp, history.SessionDown)
	up := func(peer netip.Addr, since time.Time) bgp.PeerStatus {
		return bgp.PeerStatus{Address: peer, State: bgp.StateEstablished, Since: since, LastDown: "what was before"}
	}
	down := func(peer netip.Addr, why string) bgp.PeerStatus {
		return bgp.PeerStatus{Address: peer, State: bgp.StateActive, Since: now, LastDown: why}
	}
	for i, tt := range []struct {
		see  bgp.PeerStatus
		want string
	}{
		{up(tor1, before), ""},          // it was up before this agent was
		{down(tor2, "of long ago"), ""}, // nobody has seen it up
		{up(tor2, now), "session-up 10.0.2.0\n"},
		{up(tor2, now), ""},
		{down(tor1, "hold timer expired"), "session-down 10.0.1.0 (hold timer expired)\n"},
		{down(tor1, "connection refused"), ""},
		{up(tor1, before), "session-up 10.0.1.0\n"}, // whatever the speaker's clock says
	} {
		l.bgp(tt.see)
		if got := ledger.Story(); got != tt.want {
			t.Errorf("step %d: told %q, want %q", i, got, tt.want)
		}
	}
	l.keep([]netip.Addr{tor1})
	if got, want := ledger.Story(), "session-down 10.0.2.0 (no longer configured)\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	l.bgp(up(netip.MustParseAddr("10.0.3.0"), now)) // the first that is heard of it, but it came up in this run
	if got, want := ledger.Story(), "session-up 10.0.3.0\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	l = newSessionLog(ledger, history.BFDUp, history.BFDDown)
	for _, s := range []bfd.Status{
		{Session: bfd.Session{Peer: tor1}, State: bfd.Down}, {Session: bfd.Session{Peer: tor1}, State: bfd.Up, Since: now},
		{Session: bfd.Session{Peer: tor1}, State: bfd.Down, LastDown: "detection time expired"},
	} {
		l.bfd(s)
	}
	if got, want := ledger.Story(), "bfd-up 10.0.1.0\nbfd-down 10.0.1.0 (detection time expired)\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestRunsAreTold(t *testing.T) {
	ledger := &historytest.Ledger{}
	r := &rooms{ledger: ledger}
	r.began()
	r.ended(errors.New("no netlink"))
	if got, want := ledger.Story(), "start ("+version+")\nstop error \"no netlink\"\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}
