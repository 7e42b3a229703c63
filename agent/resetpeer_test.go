package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/bgp"
)

func TestResetPeer(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	eventually(t, "announced", func() bool { return len(r.speaker.story()) > 0 })
	peer := func(a, state string) bgp.PeerStatus {
		return bgp.PeerStatus{Address: netip.MustParseAddr(a), State: state}
	}
	restarting := peer("10.0.5.0", bgp.StateActive)
	restarting.PeerRestarting = true
	r.speaker.set(func() {
		r.speaker.peers = []bgp.PeerStatus{
			peer("10.0.1.0", bgp.StateEstablished), peer("10.0.2.0", bgp.StatePrefixLimit), peer("10.0.3.0", bgp.StateAdminDown),
			peer("10.0.4.0", bgp.StateHeld), restarting, peer("10.0.6.0", bgp.StateActive),
			peer("fe80::1%eth0", bgp.StateEstablished), peer("fe80::1%eth1", bgp.StateEstablished), peer("fe80::2%eth2", bgp.StateHeld),
		}
	})
	for _, tt := range []struct {
		name   string
		effect agent.ResetEffect
		did    string
	}{
		{"10.0.1.0", agent.ResetEnded, `reset 10.0.1.0 "why"`},
		{"10.0.2.0", agent.ResetStarted, "enable 10.0.2.0"},
		{"10.0.3.0", agent.ResetStarted, "enable 10.0.3.0"},
		{"10.0.4.0", agent.ResetReleased, "release 10.0.4.0"},
		{"10.0.5.0", agent.ResetDropped, `reset 10.0.5.0 "why"`},
		{"10.0.6.0", agent.ResetNothing, ""},
		{"fe80:0::1%eth1", agent.ResetEnded, `reset fe80::1%eth1 "why"`},
		{"eth0", agent.ResetEnded, `reset fe80::1%eth0 "why"`},
		{"fe80::2", agent.ResetReleased, "release fe80::2%eth2"},
	} {
		p, effect, err := r.ResetPeer(t.Context(), tt.name, "why")
		if got := strings.Join(r.speaker.story(), "; "); err != nil || effect != tt.effect || got != tt.did || !p.IsValid() {
			t.Errorf("%s: %s %s, did %q, %v; want %s, %q", tt.name, p, effect, got, err, tt.effect, tt.did)
		}
	}
	for _, tt := range []struct {
		name, reason string
		is           error
		text         string
	}{
		{"10.0.9.9", "", agent.ErrNotFound, `no peer "10.0.9.9": the peers are 10.0.1.0, 10.0.2.0, 10.0.3.0, 10.0.4.0, 10.0.5.0, 10.0.6.0, fe80::1%eth0, fe80::1%eth1, fe80::2%eth2`},
		{"", "", agent.ErrNotFound, `no peer ""`},
		{"fe80::1", "", agent.ErrInvalid, "several peers are fe80::1: name one of fe80::1%eth0, fe80::1%eth1"},
		{"10.0.1.0", "two\nlines", agent.ErrInvalid, "one line"},
	} {
		if _, _, err := r.ResetPeer(t.Context(), tt.name, tt.reason); !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s, %q: %v, want %q", tt.name, tt.reason, err, tt.text)
		}
	}
	for refused, is := range map[error]error{bgp.ErrDisconnected: agent.ErrNotReady, bgp.ErrNoPeer: bgp.ErrNoPeer} {
		r.speaker.set(func() { r.speaker.refuse = refused })
		if _, _, err := r.ResetPeer(t.Context(), "10.0.1.0", ""); !errors.Is(err, is) {
			t.Errorf("%v becomes %v", refused, err)
		}
	}
}

// TestResetPeerWhileDrained: the sessions are down for a reason.
func TestResetPeerWhileDrained(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, _ func() *rig) {
		r.drain(t, agent.DrainRequest{Reason: "memory"})
		r.speaker.story()
		if _, _, err := r.ResetPeer(t.Context(), "172.31.0.0", ""); !errors.Is(err, agent.ErrDraining) || !strings.Contains(err.Error(), "reset peer 172.31.0.0") {
			t.Errorf("%v", err)
		}
		if did := r.speaker.story(); len(did) > 0 {
			t.Errorf("did %v", did)
		}
	})
}

// TestLinksInStatus: what is wrong on a link, and with DNS, is told once, and no AS is made up for an external peer.
func TestLinksInStatus(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	const several, none = "several routers on the link eth0: fe80::1, fe80::2", "no router heard on eth1"
	const taken = "DNS on 10.64.0.0:53: address already in use"
	r.links, r.dns = []string{several, none}, []string{taken}
	r.speaker.set(func() {
		r.speaker.peers = []bgp.PeerStatus{
			{Address: netip.MustParseAddr("fe80::1%eth0"), ASN: 64513, State: bgp.StateEstablished},
			{Address: netip.MustParseAddr("fe80::%eth1"), State: bgp.StateIdle, LastDown: none},
		}
	})
	problems := r.Status(t.Context()).Problems
	for _, want := range []string{several, taken, fmt.Sprintf("peer fe80::%%eth1 (external) is Idle: %s", none)} {
		if !slices.Contains(problems, want) {
			t.Errorf("no %q in %q", want, problems)
		}
	}
	if text := strings.Join(problems, "\n"); strings.Count(text, none) != 1 || strings.Contains(text, "AS0") {
		t.Errorf("problems:\n%s", text)
	}
}
