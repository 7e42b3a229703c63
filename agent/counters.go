package agent

import (
	"sync/atomic"
	"time"
)

// Counters count verbs since the agent started.
type Counters struct {
	Attached, AttachFailed, Detached, DetachFailed uint64
	Reconcile                                      time.Duration // that the last comparison of leases with links took; 0 before the first
}

type counters struct {
	attached, attachFailed, detached, detachFailed atomic.Uint64
	reconcile                                      atomic.Int64 // nanoseconds
}

// Counters reads them.
func (a *Agent) Counters() Counters {
	c := &a.counters
	return Counters{
		Attached: c.attached.Load(), AttachFailed: c.attachFailed.Load(), Detached: c.detached.Load(), DetachFailed: c.detachFailed.Load(),
		Reconcile: time.Duration(c.reconcile.Load()),
	}
}

func count(err error, ok, failed *atomic.Uint64) {
	if err != nil {
		failed.Add(1)
	} else {
		ok.Add(1)
	}
}
