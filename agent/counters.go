package agent

import "sync/atomic"

// Counters count verbs since the agent started.
type Counters struct {
	Attached, AttachFailed, Detached, DetachFailed uint64
}

type counters struct {
	attached, attachFailed, detached, detachFailed atomic.Uint64
}

// Counters reads them.
func (a *Agent) Counters() Counters {
	c := &a.counters
	return Counters{Attached: c.attached.Load(), AttachFailed: c.attachFailed.Load(), Detached: c.detached.Load(), DetachFailed: c.detachFailed.Load()}
}

func count(err error, ok, failed *atomic.Uint64) {
	if err != nil {
		failed.Add(1)
	} else {
		ok.Add(1)
	}
}
