package bgp_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestReset measures how soon a session's routes are gone, and the session back, with real routers.
func TestReset(t *testing.T) {
	r := newRack(t)
	for _, a := range []string{"10.0.1.0", "10.0.2.0"} {
		start := time.Now()
		if err := r.host.Reset(t.Context(), addr(a), "link down"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, func() error {
			if got := r.host.fabric.String(); strings.Contains(got, a) {
				return fmt.Errorf("learned %s", got)
			}
			return nil
		})
		gone := time.Since(start).Round(time.Millisecond)
		if p := r.host.peer(t, a); !strings.Contains(p.LastDown, "cease") {
			t.Errorf("last down %q", p.LastDown)
		}
		r.host.fabric.want(t, 10*time.Second, atHost)
		back := time.Since(start).Round(time.Millisecond)
		t.Logf("peer %s: routes gone %s after the reset, back after %s", a, gone, back)
	}
	if err := r.host.Reset(t.Context(), addr("10.0.9.9"), ""); !errors.Is(err, bgp.ErrNoPeer) {
		t.Errorf("reset of a stranger: %v", err)
	}
}

// TestResetDropsStaleRoutes: what is kept for a router that restarts goes with a reset, and not before.
func TestResetDropsStaleRoutes(t *testing.T) {
	t.Parallel()
	h, rt := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, rt, 1)
	tor, host := newNode(t, rt, "tor"), newNode(t, h, "host")
	tor.configure(t, torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true}), "0.0.0.0/0")
	host.configure(t, hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100}), "10.64.1.0/26")
	const route = "0.0.0.0/0 via [10.0.1.0]"
	host.fabric.want(t, 10*time.Second, route)
	tor.stop()
	tor.proc.signal(syscall.SIGKILL)
	eventually(t, 5*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); !p.PeerRestarting {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	// Hastening its return has not cost the routes.
	if got := host.fabric.String(); got != route {
		t.Errorf("learned %q while the router restarts", got)
	}
	start := time.Now()
	if err := host.Reset(t.Context(), addr("10.0.1.0"), "link down"); err != nil {
		t.Fatal(err)
	}
	host.fabric.want(t, 2*time.Second, "")
	t.Logf("stale routes gone after %s", time.Since(start).Round(time.Millisecond))
}

// TestComesBackSoon measures how soon a session is back after a router lost it.
func TestComesBackSoon(t *testing.T) {
	r := newRack(t)
	for _, tt := range []struct {
		peer string
		lose func() error
	}{
		{"10.0.1.0", func() error { _, err := r.frr.run("clear bgp *"); return err }},
		{"10.0.2.0", func() error { _, err := r.bird.run("restart", "host"); return err }},
	} {
		before := r.host.peer(t, tt.peer).Since
		start := time.Now()
		if err := tt.lose(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 15*time.Second, func() error {
			if p := r.host.peer(t, tt.peer); p.State != bgp.StateEstablished || p.Since.Equal(before) {
				return fmt.Errorf("%s since %s", p.State, p.Since)
			}
			return nil
		})
		took := time.Since(start).Round(10 * time.Millisecond)
		t.Logf("peer %s: session back after %s", tt.peer, took)
		if took > 5*time.Second {
			t.Errorf("%s to come back: GoBGP's own wait was not cut", took)
		}
		if p := r.host.peer(t, tt.peer); p.Flaps == 0 {
			t.Error("the loss was not counted")
		}
	}
}

// TestHastenedHelper: the session of a router that restarts gracefully comes back soon, and its routes stay meanwhile.
func TestHastenedHelper(t *testing.T) {
	t.Parallel()
	h, rt := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, rt, 1)
	tor, host := newNode(t, rt, "tor"), newNode(t, h, "host")
	tor.configure(t, torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true}), "0.0.0.0/0")
	host.configure(t, hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100}), "10.64.1.0/26")
	host.fabric.want(t, 10*time.Second, "0.0.0.0/0 via [10.0.1.0]")
	before := host.peer(t, "10.0.1.0").Since
	start := time.Now()
	tor.respawn(t)
	eventually(t, 15*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateEstablished || p.Since.Equal(before) || p.PeerRestarting {
			return fmt.Errorf("%s since %s, restarting %t, last down %q", p.State, p.Since, p.PeerRestarting, p.LastDown)
		}
		return nil
	})
	took := time.Since(start).Round(10 * time.Millisecond)
	t.Logf("session back %s after the router's speaker was killed", took)
	if took > 5*time.Second {
		t.Errorf("%s to come back: GoBGP's own wait was not cut", took)
	}
	host.fabric.mu.Lock()
	defer host.fabric.mu.Unlock()
	if len(host.fabric.gone) > 0 {
		t.Errorf("withdrawn while the router restarted: %v", host.fabric.gone)
	}
}
