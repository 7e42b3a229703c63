package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

var (
	tor1 = netip.MustParseAddr("10.0.1.0")
	tor2 = netip.MustParseAddr("10.0.2.0")
	hop6 = netip.MustParseAddr("fd00::1")
)

// world is a FIB and a speaker that write down what is asked of them.
type world struct {
	mu      sync.Mutex
	began   time.Time
	journal []string
	peers   []bgp.PeerStatus
	named   map[netip.Addr][]netip.Addr
	refuse  error // of Reset
}

func (w *world) add(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.journal = append(w.journal, fmt.Sprintf("%dms ", time.Since(w.began).Milliseconds())+fmt.Sprintf(format, args...))
}

func (w *world) Suspend(suspended bool, hops ...netip.Addr) error {
	w.add("suspend %v %v", suspended, hops)
	return nil
}

func (w *world) Reset(_ context.Context, peer netip.Addr, reason string) error {
	w.add("reset %s: %s", peer, reason)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuse
}

func (w *world) Peers(context.Context) ([]bgp.PeerStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.peers), nil
}

func (w *world) NextHops(peer netip.Addr) []netip.Addr { return w.named[peer] }

func (w *world) did(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.journal, want) {
		t.Errorf("it did\n%s\nwant\n%s", strings.Join(w.journal, "\n"), strings.Join(want, "\n"))
	}
	w.journal, w.began = nil, time.Now()
}

// see is what the speaker tells of a peer, now and when asked.
func (w *world) see(f *Failover, addr netip.Addr, state, lastDown string, eor bool) {
	s := bgp.PeerStatus{Address: addr, State: state, LastDown: lastDown, Families: []bgp.FamilyStatus{{Family: bgp.IPv4, Spoken: true, EndOfRIB: eor}, {Family: bgp.IPv6}}}
	w.mu.Lock()
	w.peers = append(slices.DeleteFunc(w.peers, func(p bgp.PeerStatus) bool { return p.Address == addr }), s)
	w.mu.Unlock()
	f.Session(s)
}

// inBubble runs a test with both ToRs' sessions up.
func inBubble(t *testing.T, test func(t *testing.T, w *world, f *Failover)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{began: time.Now(), named: map[netip.Addr][]netip.Addr{tor1: {tor1, hop6, tor2}}}
		f := New(w, w, slog.New(slog.NewTextHandler(t.Output(), nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		w.see(f, tor1, bgp.StateEstablished, "", true)
		w.see(f, tor2, bgp.StateEstablished, "", true)
		test(t, w, f)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func pass(d time.Duration) { <-time.After(d) }

func TestDeadPath(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		f.PathDown(tor1, "BFD: detection time expired")
		f.PathDown(tor1, "link down") // once is enough
		w.did(t, "0ms suspend true [10.0.1.0 fd00::1]", "0ms reset 10.0.1.0: BFD: detection time expired")
		if dead := f.Dead(); len(dead) != 1 || dead[0].Peer != tor1 || dead[0].Cause != "BFD: detection time expired" {
			t.Errorf("dead: %v", dead)
		}
		if n := f.Count(); n != 1 {
			t.Errorf("%d routers died, want 1", n)
		}
		w.see(f, tor1, bgp.StateIdle, "reset", false)
		pass(time.Second)
		w.did(t)
		// Its session is up before it has told its routes: nothing is sent there yet.
		w.see(f, tor1, bgp.StateEstablished, "", false)
		pass(2 * time.Second)
		w.did(t)
		w.see(f, tor1, bgp.StateEstablished, "", true)
		pass(look)
		w.did(t, "100ms suspend false [10.0.1.0 fd00::1]")
		if dead := f.Dead(); len(dead) != 0 {
			t.Errorf("dead: %v", dead)
		}
	})
}

func TestRouterWithoutEndOfRIB(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		f.PathDown(tor2, "link down")
		w.see(f, tor2, bgp.StateIdle, "", false)
		w.see(f, tor2, bgp.StateEstablished, "", false)
		pass(silent + 2*look)
		w.did(t, "0ms suspend true [10.0.2.0]", "0ms reset 10.0.2.0: link down", "5100ms suspend false [10.0.2.0]")
	})
}

func TestRefusedResetIsRepeated(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		w.mu.Lock()
		w.refuse = errors.New("busy")
		w.mu.Unlock()
		f.PathDown(tor2, "link down")
		pass(2*look + look/2)
		w.mu.Lock()
		resets := len(w.journal) - 1
		w.mu.Unlock()
		if resets < 2 {
			t.Errorf("%d attempts to end the session", resets)
		}
		// The session of before its death does not bring it back, complete as it is.
		pass(time.Minute)
		if len(f.Dead()) != 1 {
			t.Error("back without a new session")
		}
	})
}

// TestSilentRouter: a session that ends by its hold timer may be a dead router, and there is another one to go through.
func TestSilentRouter(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		w.see(f, tor1, bgp.StateIdle, "hold timer expired", false)
		w.did(t, "0ms suspend true [10.0.1.0 fd00::1]") // there is no session to end
		w.see(f, tor2, bgp.StateIdle, "hold timer expired", false)
		w.did(t) // it may be all there is
		w.see(f, tor1, bgp.StateEstablished, "", true)
		pass(look)
		w.did(t, "100ms suspend false [10.0.1.0 fd00::1]")
	})
}

func TestRestartingRouterKeepsItsNextHops(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		w.see(f, tor1, bgp.StateIdle, "graceful restart: connection closed", false)
		pass(time.Minute)
		w.did(t)
	})
}

func TestRemovedPeer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, f *Failover) {
		f.PathDown(tor1, "link down")
		synctest.Wait()
		f.SetPeers([]netip.Addr{tor2})
		w.did(t, "0ms suspend true [10.0.1.0 fd00::1]", "0ms reset 10.0.1.0: link down", "0ms suspend false [10.0.1.0 fd00::1]")
		if len(f.Dead()) != 0 {
			t.Error("a peer that is not configured is dead")
		}
	})
}
