package bgp_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// lastTold is the state of a peer that the consumer was told last.
func (f *fabric) lastTold(peer string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range slices.Backward(f.peers) {
		if state, ok := strings.CutPrefix(p, peer+" "); ok {
			return state
		}
	}
	return ""
}

// wantTold waits until the consumer was told last that a peer has this state.
func (f *fabric) wantTold(t *testing.T, peer, state string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if s := f.lastTold(peer); s != state {
			return fmt.Errorf("the last that was told of %s is %q, want %q", peer, s, state)
		}
		return nil
	})
}

// TestDrainTellsOfTheSessions: who depends on the sessions hears that a drain has ended them.
func TestDrainTellsOfTheSessions(t *testing.T) {
	t.Parallel()
	h, rt := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, rt, 1)
	tor, host := newNode(t, rt, "tor"), newNode(t, h, "host")
	tor.configure(t, torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true}))
	conf := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100})
	conf.GracefulRestart.Disabled = true // or the session were opened once more, for the sake of the reason
	host.configure(t, conf)
	host.fabric.wantTold(t, "10.0.1.0", bgp.StateEstablished)
	conf.Shutdown = "new cables"
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	host.fabric.wantTold(t, "10.0.1.0", bgp.StateAdminDown)
	conf.Shutdown = ""
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	host.fabric.wantTold(t, "10.0.1.0", bgp.StateEstablished)
}

// TestAnnouncementsAreTold: once each, and not again by a client or a speaker that goes on with them.
func TestAnnouncementsAreTold(t *testing.T) {
	t.Parallel()
	host := newNode(t, nstest.New(t, "host"), "host")
	said := func(want ...string) {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			host.fabric.mu.Lock()
			defer host.fabric.mu.Unlock()
			if !slices.Equal(host.fabric.said, want) {
				return fmt.Errorf("said %q, want %q", host.fabric.said, want)
			}
			return nil
		})
	}
	host.configure(t, hostConfig(), "10.64.0.0/26", "10.64.0.64/26")
	said("+[10.64.0.0/26 10.64.0.64/26] -[]")
	host.announce(t, "10.64.0.0/26", "10.64.0.64/26")
	host.respawn(t)
	host.fabric.waitSynced(t, 2)
	host.announce(t, "10.64.0.0/25", "10.64.0.64/26")
	said("+[10.64.0.0/26 10.64.0.64/26] -[]", "+[10.64.0.0/25] -[10.64.0.0/26]")
	host.stop()
	host.connect(t) // another agent
	host.configure(t, hostConfig(), "10.64.0.0/25")
	said("+[] -[10.64.0.64/26]")
}

// TestNewSpeakerTellsOfLostSessions: the sessions of a speaker that died are gone, and those that do not come back at the new
// one are not taken for up.
func TestNewSpeakerTellsOfLostSessions(t *testing.T) {
	t.Parallel()
	host, tor, _, _ := pair(t, func(_, _ *bgp.Peer) {})
	host.established(t, "10.0.1.0")
	host.fabric.waitSynced(t, 1)
	tor.stop()
	host.proc.signal(syscall.SIGKILL)
	tor.proc.signal(syscall.SIGKILL)
	host.proc = startSpeaker(t, host.ns, host.socket)
	host.fabric.wantTold(t, "10.0.1.0", bgp.StateActive)
}

// TestResetLeavesDrainedPeersDown: a path that dies while the host is drained does not bring its session up.
func TestResetLeavesDrainedPeersDown(t *testing.T) {
	t.Parallel()
	h, rt := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, rt, 1)
	tor, host := newNode(t, rt, "tor"), newNode(t, h, "host")
	tor.configure(t, torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true}), "0.0.0.0/0")
	conf := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100})
	host.configure(t, conf, "10.64.1.0/26")
	host.fabric.want(t, 10*time.Second, "0.0.0.0/0 via [10.0.1.0]")
	tor.stop()
	tor.proc.signal(syscall.SIGKILL)
	eventually(t, 5*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); !p.PeerRestarting {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	conf.Shutdown = "maintenance"
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	if err := host.Reset(t.Context(), addr("10.0.1.0"), "link down"); err != nil {
		t.Fatal(err)
	}
	if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateAdminDown {
		t.Errorf("a reset made the peer %s in a drain", p.State)
	}
	host.fabric.want(t, 2*time.Second, "")
	if err := host.Enable(t.Context(), addr("10.0.1.0")); err == nil {
		t.Error("a peer was enabled in a drain")
	}
	if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateAdminDown {
		t.Errorf("enabled to %s in a drain", p.State)
	}
}
