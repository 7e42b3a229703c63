package blocks

import (
	"context"
	"errors"
	"testing"
	"time"
)

// holds wants the journal to be just this.
func (r *rig) holds(withdrawn bool, want ...string) {
	r.t.Helper()
	if err := r.HoldNow(r.t.Context(), withdrawn); err != nil {
		r.t.Fatal(err)
	}
	r.did(want...)
}

func TestHold(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.cut()
		began := time.Now()
		r.holds(true, "announce []")
		if took := time.Since(began); took != r.opts.Settle {
			r.t.Errorf("it took %s, want the %s that ToRs get", took, r.opts.Settle)
		}
		r.holds(true)
		r.rest()
		r.attach(1) // leases are none of its business
		r.problem("")
		r.holds(false, "announce [10.64.0.0/28]")
		r.rest()
		r.did()
	})
}

// TestStartOnHold: nothing is announced from the start, and nothing discarded less.
func TestStartOnHold(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.held = true
		r.start()
		r.did("announce []")
		if len(r.table.Status()) != 1 {
			r.t.Errorf("discard routes %v", r.table.Status())
		}
		r.holds(false, "announce [10.64.0.0/28]")
	})
}

// TestGrowthOnHold: a block that comes meanwhile is used, and announced with the others later.
func TestGrowthOnHold(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.cut()
		r.holds(true, "announce []")
		r.attach(13)
		r.rest()
		r.order("claimed 10.64.0.16/28", "discard 10.64.0.0/27", "no discard 10.64.0.0/28")
		r.has("10.64.0.0/28", "10.64.0.16/28")
		r.holds(false, "announce [10.64.0.0/27]")
	})
}

func TestHoldEndsWithItsCaller(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.speaker.refuse(errors.New("table is full"))
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
		defer cancel()
		if err := r.HoldNow(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
			r.t.Errorf("with a speaker that refuses: %v", err)
		}
		r.problem("table is full")
		r.speaker.refuse(nil)
		r.cut()
		r.rest()
		r.did("announce []") // it is wanted still
	})
}
