package bfd_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
)

const usual = 100 * time.Millisecond

// TestRouters brings three sessions up with FRR and with BIRD and looks at them from both sides.
func TestRouters(t *testing.T) {
	r := newRig(t, usual)
	r.set(t, all(usual)...)
	r.awaitUp(t, all(usual), usual)
	eventually(t, 10*time.Second, func() error {
		for _, p := range r.frr.peers(t, "") {
			if p.Status != "up" || p.RemoteTx != 100 || p.RemoteMultiplier != 3 {
				return fmt.Errorf("FRR: %+v", p)
			}
		}
		want := map[string]string{"10.2.0.1": "Up", "fd00:2::1": "Up", "fe80::1": "Up"}
		if got := r.bird.states(t); !maps.Equal(got, want) {
			return fmt.Errorf("BIRD: %v", got)
		}
		return nil
	})
	if got := r.downs(t); got != [3]uint64{} {
		t.Errorf("downs %v", got)
	}
	if got := len(r.frr.peers(t, "")); got != 3 {
		t.Errorf("FRR has %d peers", got)
	}
	ports := map[uint32]bool{}
	for _, st := range r.client.Status() {
		ports[st.LocalDiscriminator] = true
		if st.LocalDiscriminator == 0 || st.RemoteDiscriminator == 0 || st.Ups != 1 || st.Diagnostic != bfd.NoDiagnostic || st.Error != "" {
			t.Errorf("%+v", st)
		}
	}
	if len(ports) != 6 {
		t.Errorf("discriminators: %v", ports)
	}

	t.Run("timers change without a flap", r.testTimers)
	t.Run("unchanged set", r.testUnchanged)
	t.Run("admin down", r.testAdminDown)
	t.Run("removed and added", r.testRemove)
	t.Run("wrong TTL", r.testTTL)
	t.Run("detection", r.testDetection)
	t.Run("interface made anew", r.testLinkFlap)
}

func (r *rig) testTimers(t *testing.T) {
	before := r.downs(t)
	slow := all(usual)
	for i := range slow {
		slow[i].MinTx, slow[i].MinRx, slow[i].Multiplier = 300*time.Millisecond, 400*time.Millisecond, 5
	}
	r.set(t, slow...)
	eventually(t, 10*time.Second, func() error {
		for _, p := range r.frr.peers(t, "") {
			if p.RemoteTx != 300 || p.RemoteMultiplier != 5 {
				return fmt.Errorf("FRR: %+v", p)
			}
		}
		for _, st := range mustRefresh(t, r) {
			if st.TxInterval != 300*time.Millisecond || st.RxInterval != 400*time.Millisecond || st.DetectionTime != 1200*time.Millisecond || st.State != bfd.Up {
				return fmt.Errorf("%+v", st)
			}
		}
		return nil
	})
	r.set(t, all(usual)...)
	r.awaitUp(t, all(usual), usual)
	r.steady(t, time.Second)
	if got := r.downs(t); got != before {
		t.Errorf("downs %v, before %v", got, before)
	}
}

func mustRefresh(t testing.TB, r *rig) []bfd.Status {
	t.Helper()
	now, err := r.client.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// steady waits until so much more of the peer's time has passed as its packets show.
func (r *rig) steady(t testing.TB, d time.Duration) {
	t.Helper()
	peer := netip.MustParseAddr("10.2.0.0")
	first := r.status(t, peer, "tor2")
	need := first.PacketsIn + uint64(d/first.RxInterval)
	eventually(t, 2*d+10*time.Second, func() error {
		if st := r.status(t, peer, "tor2"); st.PacketsIn < need {
			return fmt.Errorf("%d packets, want %d", st.PacketsIn, need)
		}
		return nil
	})
}

func (r *rig) testUnchanged(t *testing.T) {
	before := mustRefresh(t, r)
	r.set(t, all(usual)...)
	after := mustRefresh(t, r)
	for i := range after {
		if before[i].LocalDiscriminator != after[i].LocalDiscriminator || !before[i].Since.Equal(after[i].Since) {
			t.Errorf("%+v became %+v", before[i], after[i])
		}
	}
}

func (r *rig) testAdminDown(t *testing.T) {
	if err := r.client.AdminDown(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		for _, p := range r.frr.peers(t, "") {
			if p.Status != "down" || p.Diagnostic != "neighbor signaled session down" {
				return fmt.Errorf("FRR: %+v", p)
			}
		}
		for _, state := range r.bird.states(t) {
			if state != "Down" {
				return fmt.Errorf("BIRD: %v", r.bird.states(t))
			}
		}
		return nil
	})
	for _, st := range mustRefresh(t, r) {
		if st.State != bfd.AdminDown || st.Diagnostic != bfd.AdministrativelyDown || st.TxInterval < time.Second {
			t.Errorf("%+v", st)
		}
	}
	if err := r.client.AdminDown(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	r.awaitUp(t, all(usual), usual)
}

func (r *rig) testRemove(t *testing.T) {
	kept := all(usual)[3:]
	r.set(t, kept...)
	eventually(t, 2*time.Second, func() error {
		for _, p := range r.frr.peers(t, "") {
			if p.Status != "down" || p.Diagnostic != "neighbor signaled session down" {
				return fmt.Errorf("FRR was not told: %+v", p)
			}
		}
		return nil
	})
	if got := len(r.client.Status()); got != len(kept) {
		t.Errorf("%d sessions known", got)
	}
	r.set(t, all(usual)...)
	r.awaitUp(t, all(usual), usual)
	if st := r.status(t, netip.MustParseAddr("10.2.0.0"), "tor2"); st.Downs != 1 { // from the test before
		t.Errorf("the kept session went down: %+v", st)
	}
}

func (r *rig) nft(t testing.TB, rules string) {
	t.Helper()
	if out, err := r.birdNS.Output(t.Context(), "nft", rules); err != nil {
		t.Fatalf("nft %s: %v\n%s", rules, err, out)
	}
}

// testTTL has the IPv4 packets of BIRD arrive as if from two hops away.
func (r *rig) testTTL(t *testing.T) {
	peer := netip.MustParseAddr("10.2.0.0")
	before := r.status(t, peer, "tor2")
	r.nft(t, "add table inet ttl; add chain inet ttl out { type filter hook output priority 0; }; add rule inet ttl out ip protocol udp udp dport 3784 ip ttl set 254")
	eventually(t, 5*time.Second, func() error {
		if st := r.status(t, peer, "tor2"); st.State != bfd.Down || st.Diagnostic != bfd.DetectionTimeExpired || st.PacketsDiscarded <= before.PacketsDiscarded {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if st := r.status(t, netip.MustParseAddr("fd00:2::a"), ""); st.State != bfd.Up {
		t.Errorf("the IPv6 session: %+v", st)
	}
	r.nft(t, "delete table inet ttl")
	r.awaitUp(t, all(usual), usual)
}

// testDetection drops what BIRD sends, and measures until the change is told.
func (r *rig) testDetection(t *testing.T) {
	for round := range 3 {
		r.mu.Lock()
		r.events = nil
		r.mu.Unlock()
		began := time.Now()
		r.nft(t, "add table inet cut; add chain inet cut out { type filter hook output priority 0; policy drop; }")
		cut := time.Now()
		var lost []bfd.Status
		eventually(t, 5*time.Second, func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			lost = slices.DeleteFunc(slices.Clone(r.events), func(st bfd.Status) bool { return st.State != bfd.Down })
			if len(lost) < 3 {
				return errors.New("not detected")
			}
			return nil
		})
		for _, st := range lost {
			// The last packet may have come up to an interval before the cut, which happened between began and cut.
			least, most := 3*usual-usual, 3*usual+50*time.Millisecond
			if took := st.Since.Sub(began); took < least || st.Since.Sub(cut) > most {
				t.Errorf("round %d: %s down after %s", round, st.Peer, took)
			}
			if st.Diagnostic != bfd.DetectionTimeExpired || st.LastDown == "" {
				t.Errorf("%+v", st)
			}
			t.Logf("%s down %s after the cut: %s", st.Peer, st.Since.Sub(cut).Round(time.Millisecond), st.LastDown)
		}
		r.nft(t, "delete table inet cut")
		r.awaitUp(t, all(usual), usual)
	}
}

// testLinkFlap takes the interface away and makes it anew under its name.
func (r *rig) testLinkFlap(t *testing.T) {
	peer := netip.MustParseAddr("10.2.0.0")
	if out, err := r.host.Output(t.Context(), "ip", "link", "set", "tor2", "down"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	eventually(t, 5*time.Second, func() error {
		if st := r.status(t, peer, "tor2"); st.State != bfd.Down {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	for _, args := range [][]string{
		{"link", "set", "tor2", "up"}, {"addr", "add", "fd00:2::1/64", "dev", "tor2", "nodad"}, {"addr", "add", "fe80::1/64", "dev", "tor2", "nodad"},
	} {
		if out, err := r.host.Output(t.Context(), "ip", args...); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	r.awaitUp(t, all(usual), usual)
	for _, st := range mustRefresh(t, r) {
		if st.Error != "" {
			t.Errorf("%+v", st)
		}
	}
}
