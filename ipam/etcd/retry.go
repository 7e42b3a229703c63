package etcd

import (
	"context"
	"math/rand/v2"
	"time"
)

// retry spaces attempts out: a random time of at most first, then of at most twice that, up to most.
type retry struct{ first, most, next time.Duration }

// wait returns false if ctx ended first.
func (r *retry) wait(ctx context.Context) bool {
	r.next = min(max(r.first, 2*r.next), r.most)
	timer := time.NewTimer(rand.N(r.next))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
