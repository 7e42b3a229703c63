package blocks

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// settings are those of the rig, with these blocks.
func (r *rig) settings(prefixes ...string) Settings {
	s := r.opts.Settings
	s.Configured = nil
	for _, p := range prefixes {
		s.Configured = append(s.Configured, ipam.Block{Prefix: netip.MustParsePrefix(p)})
	}
	return s
}

func (r *rig) reload(s Settings) {
	r.t.Helper()
	if err := r.Reconfigure(r.t.Context(), s); err != nil {
		r.t.Fatal(err)
	}
	r.rest()
}

func TestReloadAddsABlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.cut()
		r.reload(r.settings("10.64.0.0/28", "10.64.0.16/28"))
		r.did("own [10.64.0.0/27] []", "discard 10.64.0.0/27", "announce [10.64.0.0/27 10.64.0.0/28]",
			"+500ms announce [10.64.0.0/27 10.64.0.0/28], to the ToRs alone [10.64.0.0/28]", "+500ms announce [10.64.0.0/27]",
			"no discard 10.64.0.0/28")
		r.has("10.64.0.0/28 static", "10.64.0.16/28 static")
		r.attach(20)
	})
}

func TestReloadRemovesABlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.80.0.0/28")
		r.start()
		r.attach(17)
		r.cut()
		r.reload(r.settings("10.64.0.0/28"))
		r.did() // somebody lives there
		r.has("10.64.0.0/28 static", "10.80.0.0/28 static released")
		r.detach("10.80.0.0/28")
		r.rest()
		r.did("announce [10.64.0.0/28]", "+500ms no discard 10.80.0.0/28", "own [10.64.0.0/28] []")
		r.has("10.64.0.0/28 static")
	})
}

func TestReloadTakesADrainingBlockBack(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.80.0.0/28")
		r.start()
		r.attach(17)
		r.reload(r.settings("10.64.0.0/28"))
		r.cut()
		r.reload(r.settings("10.64.0.0/28", "10.80.0.0/28"))
		r.did()
		r.has("10.64.0.0/28 static", "10.80.0.0/28 static")
		r.attach(10)
	})
}

// TestReloadReplacesABlockByALargerOne: the announced prefix is never gone, nor a lease.
func TestReloadReplacesABlockByALargerOne(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.attach(16)
		r.cut()
		r.reload(r.settings("10.64.0.0/27"))
		r.order("discard 10.64.0.0/27", "announce [10.64.0.0/27 10.64.0.0/28]", "to the ToRs alone [10.64.0.0/28]", "announce [10.64.0.0/27]")
		r.has("10.64.0.0/27 static")
		r.attach(10)
	})
}

func TestReloadShrinksABlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/27")
		r.start()
		r.attach(20)
		r.cut()
		r.reload(r.settings("10.64.0.0/28"))
		r.did() // both halves are still in use
		r.has("10.64.0.0/28 static", "10.64.0.16/28 static released")
		r.detach("10.64.0.16/28")
		r.rest()
		r.order("discard 10.64.0.0/28", "announce [10.64.0.0/28]", "no discard 10.64.0.0/27")
		r.has("10.64.0.0/28 static")
	})
}

// TestReloadOfTheBudget lets grow what could not.
func TestReloadOfTheBudget(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Budget.IPv4 = 1
		r.start()
		r.attach(16)
		r.rest()
		r.has("10.64.0.0/28")
		s := r.settings()
		s.Budget.IPv4 = 4
		r.reload(s)
		r.has("10.64.0.0/28", "10.64.0.16/28")
	})
}

func TestReloadAfterTheEnd(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.stop()
		if err := r.Reconfigure(r.t.Context(), r.settings()); !errors.Is(err, ErrStopped) {
			r.t.Errorf("%v, want %v", err, ErrStopped)
		}
		r.start()
	})
}

func TestPlan(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.80.0.0/28")
		r.start()
		r.attach(17)
		r.cut()
		cover, drained := r.Plan(r.settings("10.64.0.0/28", "10.64.0.16/28").Configured)
		if got, want := fmt.Sprint(cover, drained), "[10.64.0.0/27 10.80.0.0/28] [10.80.0.0/28]"; got != want {
			r.t.Errorf("got %s, want %s", got, want)
		}
		r.pass(5 * time.Second)
		r.did()
		r.has("10.64.0.0/28 static", "10.80.0.0/28 static")
	})
}
