package bgp_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// TestPlanSessionsIsWhatHappens changes one thing at a time of a live session, and of the speaker, and compares what happens
// with what was foretold. The router counts how often it lost the session; it does not know of any change.
func TestPlanSessionsIsWhatHappens(t *testing.T) {
	t.Parallel()
	host, tor, base, _ := pair(t, func(_, _ *bgp.Peer) {})
	peer := base.Peers[0].Address.String()
	us := tor.established(t, "10.0.1.1")
	host.established(t, peer)
	now := base
	for _, change := range []struct {
		name string
		make func(*bgp.Config)
		want bgp.SessionEffect
	}{
		{"nothing", func(*bgp.Config) {}, ""},
		{"another description", func(c *bgp.Config) { c.Peers[0].Description = "tor" }, ""},
		{"hold time", func(c *bgp.Config) { c.Peers[0].HoldTime = 30 * time.Second }, bgp.SessionUpdated},
		{"prefix limit", func(c *bgp.Config) { c.Peers[0].MaxPrefixes = 77 }, bgp.SessionUpdated},
		{"next hop of IPv6", func(c *bgp.Config) { c.Peers[0].NextHop6 = addr("fd00:1::77") }, bgp.SessionUpdated},
		{"import", func(c *bgp.Config) {
			c.Policy = bgp.HostPolicy{Import: []bgp.ImportRule{{Prefix: pfx("192.0.2.0/24")}}}
		}, ""},
		{"multipath", func(c *bgp.Config) { c.Multipath = 7 }, ""},
		{"another peer", func(c *bgp.Config) { c.Peers = append(c.Peers, bgp.Peer{Address: addr("10.0.9.9"), ASN: 65009}) }, ""},
		{"restart time", func(c *bgp.Config) { c.GracefulRestart.RestartTime = 99 * time.Second }, bgp.SessionReset},
		{"long-lived", func(c *bgp.Config) { c.GracefulRestart.LongLived = 30 * time.Second }, bgp.SessionReset},
		{"longer-lived", func(c *bgp.Config) { c.GracefulRestart.LongLived = time.Minute }, bgp.SessionReset},
		{"local address", func(c *bgp.Config) { c.Peers[0].LocalAddress = addr("10.0.1.1") }, bgp.SessionReset},
		{"one family", func(c *bgp.Config) { c.Peers[0].Families = []bgp.Family{bgp.IPv4} }, bgp.SessionReset},
		{"router ID", func(c *bgp.Config) { c.RouterID = addr("192.0.2.77") }, bgp.SessionReset},
		{"removed", func(c *bgp.Config) { c.Peers = c.Peers[1:] }, bgp.SessionRemoved},
	} {
		next := now
		next.Peers = append([]bgp.Peer(nil), now.Peers...)
		change.make(&next)
		var got bgp.SessionEffect
		for _, s := range bgp.PlanSessions(now, next) {
			if s.Peer.String() == peer {
				got = s.Effect
			}
		}
		if got != change.want {
			t.Errorf("%s: foretold %q, want %q", change.name, got, change.want)
		}
		if err := host.Configure(t.Context(), next); err != nil {
			t.Fatal(change.name, err)
		}
		now = next
		switch change.want {
		case bgp.SessionReset:
			eventually(t, 10*time.Second, func() error { return lost(tor.peer(t, "10.0.1.1"), us) })
			us = tor.established(t, "10.0.1.1")
		case bgp.SessionRemoved:
			eventually(t, 10*time.Second, func() error { return lost(tor.peer(t, "10.0.1.1"), us) })
		default:
			// An UPDATE that follows the change shows that what came before it has been done.
			host.announce(t, fmt.Sprintf("10.64.9.%d/32", us.Received.Update%200+1))
			before := us.Received.Update
			eventually(t, 10*time.Second, func() error {
				us2 := tor.peer(t, "10.0.1.1")
				if us2.Received.Update <= before {
					return fmt.Errorf("%s: no UPDATE came", change.name)
				}
				if lost(us2, us) == nil {
					t.Errorf("%s: the session was reset: %s", change.name, us2.LastDown)
				}
				us = us2
				return nil
			})
		}
	}
}

// lost is nil if the session has been lost since before.
func lost(now, before bgp.PeerStatus) error {
	if now.State != bgp.StateEstablished || now.Flaps > before.Flaps || !strings.EqualFold(now.LastDownAt.String(), before.LastDownAt.String()) {
		return nil
	}
	return fmt.Errorf("the session is still that of before: %d flaps", now.Flaps)
}
