package failover

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// session is what the speaker tells of a session that came up at some time.
func (w *world) session(f *Failover, addr netip.Addr, since time.Time) {
	s := bgp.PeerStatus{Address: addr, State: bgp.StateEstablished, Since: since, Families: []bgp.FamilyStatus{{Family: bgp.IPv4, Spoken: true, EndOfRIB: true}}}
	w.mu.Lock()
	w.peers = append(slices.DeleteFunc(w.peers, func(p bgp.PeerStatus) bool { return p.Address == addr }), s)
	w.mu.Unlock()
	f.Session(s)
}

// TestPathDiesAgainBeforeTheRouterIsBack: the new session is as dead as the one before, complete as it is.
func TestPathDiesAgainBeforeTheRouterIsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		f.PathDown(tor2, "link down")
		w.see(f, tor2, bgp.StateIdle, "reset", false)
		w.see(f, tor2, bgp.StateEstablished, "", false)
		pass(time.Second)
		w.see(f, tor2, bgp.StateEstablished, "", true)
		f.PathDown(tor2, "link down again") // before it was seen that the router is back
		pass(2 * silent)
		w.did(t, "0ms suspend true [10.0.2.0]", "0ms reset 10.0.2.0: link down", "1000ms reset 10.0.2.0: link down again")
		w.see(f, tor2, bgp.StateIdle, "reset", false)
		w.see(f, tor2, bgp.StateEstablished, "", true)
		pass(look)
		w.did(t, "100ms suspend false [10.0.2.0]")
	})
}

// TestSessionLostUnseen: the speaker restarts, or the connection to it is lost, while a session is being ended. That it went
// nobody tells; that there is another one shows by its time.
func TestSessionLostUnseen(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		w.session(f, tor2, time.Now())
		pass(time.Minute)
		f.PathDown(tor2, "link down")
		w.did(t, "60000ms suspend true [10.0.2.0]", "60000ms reset 10.0.2.0: link down")
		pass(5*time.Second + look/2)
		w.session(f, tor2, time.Now())
		pass(look)
		w.did(t, "5100ms suspend false [10.0.2.0]")
	})
}

// newborn runs a test with a Failover that has not heard of any session yet, as in an agent that has just started.
func newborn(t *testing.T, test func(t *testing.T, w *world, f *Failover)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{began: time.Now(), refuse: bgp.ErrDisconnected}
		f := New(w, w, slog.New(slog.NewTextHandler(t.Output(), nil)))
		f.SetPeers([]netip.Addr{tor1, tor2})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		test(t, w, f)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestPathDeadBeforeTheSpeakerIsFound: its session, of which the agent hears last, is of before the path's death.
func TestPathDeadBeforeTheSpeakerIsFound(t *testing.T) {
	newborn(t, func(t *testing.T, w *world, f *Failover) {
		old := time.Now().Add(-time.Hour)
		f.PathDown(tor2, "link down")
		pass(look / 2)
		w.mu.Lock()
		w.refuse, w.journal = nil, nil
		w.mu.Unlock()
		w.session(f, tor2, old)
		pass(time.Minute)
		w.did(t, "100ms reset 10.0.2.0: link down")
		if len(f.Dead()) != 1 {
			t.Error("back by its session of before")
		}
	})
}

// TestPeerWithoutASessionYet: there was none to end, and the first one says that the router is there.
func TestPeerWithoutASessionYet(t *testing.T) {
	newborn(t, func(t *testing.T, w *world, f *Failover) {
		w.mu.Lock()
		w.refuse = nil
		w.mu.Unlock()
		f.PathDown(tor2, "link down")
		pass(time.Second)
		w.session(f, tor2, time.Now())
		pass(2 * look)
		if len(f.Dead()) != 0 {
			t.Error("out of use for ever")
		}
	})
}

// TestSharedNextHop: on a link with both routers, each may pass on what the other has named (RFC 4271 section 5.1.3). What a
// living router names stays in use.
func TestSharedNextHop(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		other6 := netip.MustParseAddr("fd00::2")
		w.named = map[netip.Addr][]netip.Addr{tor1: {tor1, hop6, other6}, tor2: {tor2, other6}}
		f.PathDown(tor1, "link down")
		w.did(t, "0ms suspend true [10.0.1.0 fd00::1]", "0ms reset 10.0.1.0: link down")
		// Both dead: nobody living names it.
		f.PathDown(tor2, "link down")
		w.did(t, "0ms suspend true [10.0.2.0 fd00::2]", "0ms reset 10.0.2.0: link down")
		w.see(f, tor1, bgp.StateIdle, "reset", false)
		w.see(f, tor1, bgp.StateEstablished, "", true)
		pass(2 * look)
		w.did(t, "100ms suspend false [10.0.1.0 fd00::1]", "200ms suspend false [fd00::2]")
	})
}

// TestPathOfAPeerNoLongerConfigured: what watches the paths may tell of one a moment after it has gone.
func TestPathOfAPeerNoLongerConfigured(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		f.SetPeers([]netip.Addr{tor2})
		f.PathDown(tor1, "link down")
		w.see(f, tor1, bgp.StateIdle, "removed", false)
		f.PathDown(tor1, "link down")
		pass(time.Second)
		w.did(t)
		if len(f.Dead()) != 0 {
			t.Error("a peer that is not configured is dead")
		}
	})
}

// slow is a speaker that does not answer.
type slow struct {
	*world
	asked chan struct{}
}

func (s slow) Peers(ctx context.Context) ([]bgp.PeerStatus, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSlowSpeaker: a path that dies while the speaker is asked for the peers is not left waiting for the answer.
func TestSlowSpeaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slow{&world{began: time.Now()}, make(chan struct{}, 1)}
		f := New(s.world, s, slog.New(slog.NewTextHandler(t.Output(), nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		s.see(f, tor1, bgp.StateEstablished, "", true)
		s.see(f, tor2, bgp.StateEstablished, "", true)
		f.PathDown(tor1, "link down")
		s.see(f, tor1, bgp.StateIdle, "", true)
		s.see(f, tor1, bgp.StateEstablished, "", true)
		<-s.asked
		f.PathDown(tor2, "link down")
		pass(look)
		s.did(t, "0ms suspend true [10.0.1.0]", "0ms reset 10.0.1.0: link down", "100ms suspend true [10.0.2.0]", "100ms reset 10.0.2.0: link down")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestPathFoundDead: a path that died while the agent was away has a session of before, or one that came up all the same.
func TestPathFoundDead(t *testing.T) {
	newborn(t, func(t *testing.T, w *world, f *Failover) {
		w.mu.Lock()
		w.refuse = nil
		w.mu.Unlock()
		pass(time.Hour)
		died := time.Now().Add(-time.Second)
		f.PathFound(tor1, "BFD", died)
		f.PathFound(tor2, "BFD", died)
		w.did(t) // whose sessions are not known yet
		w.session(f, tor1, died.Add(-time.Minute))
		w.session(f, tor2, died.Add(time.Second/2))
		w.did(t, "0ms suspend true [10.0.1.0]", "0ms reset 10.0.1.0: BFD")
	})
}
