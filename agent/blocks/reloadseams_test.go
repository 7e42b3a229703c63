package blocks

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// TestReloadOfARetiredHost: an operator has had it give all blocks back, and another key of the configuration changes.
func TestReloadOfARetiredHost(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Configured = []ipam.Block{{Prefix: netip.MustParsePrefix("10.64.0.0/28")}}
		r.start()
		r.has("10.64.0.0/28")
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.rest()
		r.has()
		r.cut()
		r.reload(r.settings("10.64.0.0/28"))
		r.has()
		r.did()
	})
}

// TestReloadTakesALeavingBlockBack: it is withdrawn already, but its discard route stands while the ToRs are given time.
func TestReloadTakesALeavingBlockBack(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.80.0.0/28")
		r.start()
		if err := r.Reconfigure(r.t.Context(), r.settings("10.64.0.0/28")); err != nil {
			r.t.Fatal(err)
		}
		r.pass(100 * time.Millisecond)
		r.reload(r.settings("10.64.0.0/28", "10.80.0.0/28"))
		r.has("10.64.0.0/28 static", "10.80.0.0/28 static")
		r.attach(20)
		if got := len(r.announced()); got != 2 {
			r.t.Errorf("%d prefixes announced", got)
		}
	})
}

// TestReloadMergesADrainingBlock: a larger block takes in one that drains with leases in it, before and after it has place.
func TestReloadMergesADrainingBlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.64.0.16/28")
		r.start()
		r.attach(20)
		r.reload(r.settings("10.64.0.0/28"))
		r.has("10.64.0.0/28 static", "10.64.0.16/28 static released")
		r.cut()
		r.reload(r.settings("10.64.0.0/27"))
		r.did() // the cover is what it was
		r.has("10.64.0.0/27 static")
		r.detach("10.64.0.16/28")
		r.attach(10)
		r.rest()
		r.did()
	})
}

// TestReloadSwapsBlocksWithoutRoom: the budget has room for one, and somebody lives in the old one.
func TestReloadSwapsBlocksWithoutRoom(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Budget.IPv4 = 1
		r.static("10.64.0.0/28")
		r.start()
		r.attach(3)
		r.cut()
		s := r.settings("10.80.0.0/28")
		r.reload(s)
		if got := r.announced(); len(got) != 1 || got[0].String() != "10.64.0.0/28" {
			r.t.Errorf("announced: %v", got)
		}
		r.problem("not used yet")
		r.reload(s)
		r.detach("10.64.0.0/28")
		r.rest()
		r.has("10.80.0.0/28 static")
		if got := r.announced(); len(got) != 1 || got[0].String() != "10.80.0.0/28" {
			r.t.Errorf("announced: %v", got)
		}
	})
}

// TestReloadOfALowerBudget withdraws nothing that somebody uses.
func TestReloadOfALowerBudget(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.80.0.0/28")
		r.start()
		r.attach(20)
		r.cut()
		s := r.settings("10.64.0.0/28", "10.80.0.0/28")
		s.Budget.IPv4 = 1
		r.reload(s)
		r.did()
		r.problem("budget.ipv4 is 1")
	})
}

// TestReloadOfReserved: an address that is reserved while somebody has it stays his, and is not given to another.
func TestReloadOfReserved(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.attach(1)
		r.cut()
		s := r.settings("10.64.0.0/28")
		s.Reserved = []ipam.Range{{First: netip.MustParseAddr("10.64.0.0"), Last: netip.MustParseAddr("10.64.0.9")}}
		r.reload(s)
		r.did()
		r.detach("10.64.0.0/28")
		r.attach(6)
		for _, l := range r.leases.Leases() {
			if l.Addr.Less(netip.MustParseAddr("10.64.0.10")) {
				r.t.Errorf("%s is reserved, and leased", l.Addr)
			}
		}
		r.reload(r.settings("10.64.0.0/28"))
		r.attach(5)
	})
}

// TestFlappingHealthAndReloads: a reload while the gate is shut, or counts down, does not open it.
func TestFlappingHealthAndReloads(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Health = Health{FailAfter: 3 * time.Second, RecoverAfter: 10 * time.Second}
		r.static("10.64.0.0/28")
		r.start()
		r.shut(errors.New("no forwarding"))
		r.pass(6 * time.Second)
		if got := r.announced(); len(got) != 0 {
			r.t.Fatalf("announced: %v", got)
		}
		r.shut(nil)
		r.pass(3 * time.Second)
		s := r.settings("10.64.0.0/28", "10.80.0.0/28")
		s.Health = r.opts.Health
		r.reload(s)
		if got := r.announced(); len(got) != 0 {
			r.t.Errorf("announced by a reload: %v", got)
		}
		r.Hold(true)
		r.pass(20 * time.Second)
		if got := r.announced(); len(got) != 0 {
			r.t.Errorf("announced, though it is held: %v", got)
		}
		r.Hold(false)
		r.rest()
		if got := r.announced(); len(got) != 2 {
			r.t.Errorf("announced: %v", got)
		}
		r.has("10.64.0.0/28 static", "10.80.0.0/28 static")
	})
}

// TestShorterRecovery: the new wait counts for a failure of before the reload too.
func TestShorterRecovery(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Health = Health{RecoverAfter: 5 * time.Minute}
		r.static("10.64.0.0/28")
		r.start()
		r.shut(errors.New("no forwarding"))
		r.rest()
		r.shut(nil)
		r.rest()
		s := r.settings("10.64.0.0/28")
		s.Health = Health{RecoverAfter: 5 * time.Second}
		r.reload(s)
		r.pass(10 * time.Second)
		if got := r.announced(); len(got) != 1 {
			r.t.Errorf("not announced: %q", r.Status().Gate)
		}
	})
}
