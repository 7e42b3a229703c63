package routes

import (
	"context"
	"fmt"
	"time"
)

const (
	// Hints list the kernel at most this often, and listing takes at most a fifth of the time.
	minListInterval = 20 * time.Millisecond
	listDutyCycle   = 5
)

// loop is the state of Run. Only its goroutine touches it.
type loop struct {
	t      *Table
	actual map[Key]Route // what the kernel is believed to have of ours

	listAt    time.Time // when to list next
	hinted    bool      // the next listing follows a hint: failed routes may work now
	lastList  time.Time
	listTime  time.Duration // of the last listing
	listFails int
	deadline  time.Time // for owners to be synced; zero: passed or none

	foreignAt   time.Time // when to look at the foreign routes next; zero: nothing is known to have changed
	lastForeign time.Time
	foreignTime time.Duration // of the last look
}

// Run keeps the kernel as wanted until ctx ends, which is no error. It runs once.
func (t *Table) Run(ctx context.Context) error {
	defer t.stop()
	hints, err := t.fib.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the kernel's routes: %w", err)
	}
	l := &loop{t: t, listAt: time.Now()}
	if d := t.opts.SyncDeadline; d > 0 {
		l.deadline = time.Now().Add(d)
	}
	for ctx.Err() == nil {
		l.look(hints)
		if !time.Now().Before(l.listAt) {
			l.list(ctx)
		}
		l.followForeign(ctx)
		if l.actual != nil && l.batch(ctx) {
			continue
		}
		l.sleep(ctx, hints)
	}
	return nil
}

// stop fails everybody who waits.
func (t *Table) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for _, e := range t.entries {
		answer(e.waiters, ErrStopped)
		e.waiters = nil
	}
	for _, idle := range t.idle {
		close(idle)
	}
	t.idle = nil
}

// look takes in what happened besides changes of single routes: hints, deadlines, owners becoming synced.
func (l *loop) look(hints Hints) {
	select {
	case <-hints.Own:
		l.hint()
	default:
	}
	select {
	case <-hints.Foreign:
		l.foreignHint()
	default:
	}
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	if !l.deadline.IsZero() && !time.Now().Before(l.deadline) {
		l.deadline = time.Time{}
		l.t.syncDeadline()
	}
	if l.t.prune && len(l.t.urgent)+len(l.t.queue) == 0 {
		l.listAt = time.Now() // what is wanted goes first: a listing takes long where there are many routes
	}
}

func (t *Table) syncDeadline() {
	for i, synced := range t.synced {
		if !synced {
			t.log.Warn("route owner not synced in time, its old routes are pruned", "owner", precedence[i])
			t.synced[i] = true
			t.prune = true
		}
	}
}

func (l *loop) hint() {
	l.hinted = true
	soonest := l.lastList.Add(l.spacing())
	if soonest.Before(l.listAt) {
		l.listAt = soonest
	}
}

// foreignHint has the foreign routes looked at, at once after a quiet time.
func (l *loop) foreignHint() {
	if l.foreignAt.IsZero() {
		l.foreignAt = l.lastForeign.Add(max(minListInterval, listDutyCycle*l.foreignTime))
	}
}

// followForeign looks at the foreign routes if it is time. A failure has everything listed, which is tried until it works.
func (l *loop) followForeign(ctx context.Context) {
	if l.foreignAt.IsZero() || time.Now().Before(l.foreignAt) {
		return
	}
	if err := l.lookAtForeign(ctx); err != nil && ctx.Err() == nil {
		l.t.log.Warn("cannot follow the host's other routes, listing everything", "error", err)
		l.listAt = time.Now()
	}
}

func (l *loop) spacing() time.Duration { return max(minListInterval, listDutyCycle*l.listTime) }

// sleep waits for something to do.
func (l *loop) sleep(ctx context.Context, hints Hints) {
	next := l.listAt
	if !l.deadline.IsZero() && l.deadline.Before(next) {
		next = l.deadline
	}
	if !l.foreignAt.IsZero() && l.foreignAt.Before(next) {
		next = l.foreignAt
	}
	if retry := l.retries(); !retry.IsZero() && retry.Before(next) {
		next = retry
	}
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-l.t.wake:
	case <-hints.Own:
		l.hint()
	case <-hints.Foreign:
		l.foreignHint()
	case <-timer.C:
	}
}

// retries queues the failed keys that are due and returns when the next one is; zero if none failed.
func (l *loop) retries() time.Time {
	t := l.t
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.retryAt.IsZero() || now.Before(t.retryAt) {
		return t.retryAt
	}
	t.retryAt = time.Time{}
	due := false
	for key := range t.failed {
		if retry := t.entries[key].retry; now.Before(retry) {
			t.retryBy(retry)
		} else {
			t.enqueue(key, false)
			due = true
		}
	}
	if due {
		return now
	}
	return t.retryAt
}

// retryBy has the failed keys looked at by then. Caller holds mu.
func (t *Table) retryBy(then time.Time) {
	if t.retryAt.IsZero() || then.Before(t.retryAt) {
		t.retryAt = then
	}
}

// list reads the kernel's routes and queues every difference to what is wanted.
func (l *loop) list(ctx context.Context) {
	err := l.lookAtForeign(ctx) // before anything learned is written
	start := time.Now()
	var routes []Route
	if err == nil {
		routes, err = l.t.fib.List(ctx)
	}
	l.lastList = time.Now()
	l.listTime = l.lastList.Sub(start)
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		l.listAt = l.lastList.Add(backoff(l.listFails))
		l.listFails++
		l.t.log.Error("cannot list the kernel's routes", "error", err, "retry", time.Until(l.listAt))
		return
	}
	l.listFails = 0
	l.listAt = l.lastList.Add(l.t.opts.Resync)
	l.actual = make(map[Key]Route, len(routes))
	for _, r := range routes {
		l.actual[r.Key()] = r
	}
	l.t.compare(l.actual, l.hinted, l.listTime)
	l.hinted = false
}

// compare queues the keys where the kernel, listed in the time that it took, differs from what is wanted, and with retryFailed those
// that failed.
func (t *Table) compare(actual map[Key]Route, retryFailed bool, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done.resyncs++
	t.done.listing = took
	for i := range t.desired {
		for _, r := range t.desired[i] {
			if t.shadowed(i, r) {
				continue
			}
			_, failed := t.failed[r.Key()]
			have, ok := actual[r.Key()]
			if _, refused := t.refusal(i, r.Prefix); refused {
				if ok {
					t.enqueue(r.Key(), false)
				}
				continue
			}
			if right := ok && r.satisfiedBy(have); right && failed || !right && (!failed || retryFailed) {
				if e := t.entries[r.Key()]; !right && e.state == Installed && !e.queued {
					t.done.repairs++
				}
				t.enqueue(r.Key(), false)
			}
		}
	}
	t.prune = false
	if !t.allSynced() {
		return
	}
	for key := range actual {
		_, failed := t.failed[key]
		if _, _, ok := t.winner(key); !ok && !failed {
			t.enqueue(key, false)
		}
	}
}
