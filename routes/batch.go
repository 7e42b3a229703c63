package routes

import (
	"context"
	"errors"
	"time"
)

const (
	// batchSize bounds how long an urgent change waits behind a batch of others: some milliseconds.
	batchSize = 256

	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// step is one key of a batch.
type step struct {
	key     Key
	entry   *entry
	change  Change
	waiters []chan error
	err     error
}

// batch takes some queued keys to the kernel. It reports false when there are none.
func (l *loop) batch(ctx context.Context) bool {
	steps, changes := l.take()
	if steps == nil {
		return false
	}
	began := time.Now()
	if len(changes) > 0 {
		l.apply(ctx, steps, changes)
	}
	l.t.record(steps, time.Since(began))
	return true
}

// take pops the next keys and says what each needs. A step of no change has nothing left to do.
func (l *loop) take() ([]step, []Change) {
	t := l.t
	t.mu.Lock()
	defer t.mu.Unlock()
	from := &t.urgent
	if len(*from) == 0 {
		from = &t.queue
	}
	if len(*from) == 0 {
		if t.prune {
			return nil, nil
		}
		t.busy = false
		for _, idle := range t.idle {
			close(idle)
		}
		t.idle = nil
		return nil, nil
	}
	t.busy = true
	n := min(batchSize, len(*from))
	steps := make([]step, 0, n)
	var changes []Change
	for _, key := range (*from)[:n] {
		e := t.entries[key]
		if e == nil || !e.queued {
			continue // was urgent too, and done
		}
		e.queued = false
		s := step{key: key, entry: e, waiters: e.waiters}
		e.waiters = nil
		var needed bool
		if s.change, needed, s.err = l.need(key, e, len(s.waiters) > 0); needed && s.err == nil {
			changes = append(changes, s.change)
		} else {
			s.change = Change{}
		}
		steps = append(steps, s)
	}
	if *from = (*from)[n:]; len(*from) == 0 {
		*from = nil // let go of the memory behind
	}
	return steps, changes
}

// need says what brings the kernel to what is wanted at key. Where somebody waits for the answer the kernel is asked
// even if it is believed to be right: it drops routes with their link without a word. Caller holds the table's mu.
func (l *loop) need(key Key, e *entry, awaited bool) (c Change, needed bool, err error) {
	want, _, wanted := l.t.winner(key)
	have, ours := l.actual[key]
	_, refused := l.t.refused(key)
	switch {
	case wanted:
		if err := want.validate(); err != nil {
			return Change{}, false, err
		}
		if ours {
			return Change{Replace, want}, awaited || !want.satisfiedBy(have), nil
		}
		return Change{Add, want}, true, nil
	case ours && (e.removed || l.t.allSynced() || refused), awaited:
		return Change{Delete, Route{Prefix: key.Prefix, Metric: key.Metric}}, true, nil
	}
	return Change{}, false, nil
}

// apply makes the changes, notes in each step how it went, and keeps actual in line. What fails because the view of
// the kernel was old is tried once more with a fresh one.
func (l *loop) apply(ctx context.Context, steps []step, changes []Change) {
	stale := l.try(ctx, steps, changes)
	if len(stale) == 0 {
		return
	}
	if taken, awaited := conflicts(steps, stale); awaited || taken && time.Since(l.lastList) > l.spacing() {
		l.list(ctx)
	}
	again := make([]step, 0, len(stale))
	changes = changes[:0]
	for _, i := range stale {
		s := steps[i]
		_, ours := l.actual[s.key]
		if errors.Is(s.err, ErrExists) && !ours {
			continue // somebody else's, and stays so
		}
		s.change.Op = Add
		if ours {
			s.change.Op = Replace
		}
		again, changes = append(again, s), append(changes, s.change)
	}
	if len(changes) == 0 {
		return
	}
	l.try(ctx, again, changes)
	for i, j := 0, 0; i < len(steps) && j < len(again); i++ {
		if steps[i].key == again[j].key {
			steps[i].err = again[j].err
			j++
		}
	}
}

// conflicts reports whether a place thought free was not, and whether somebody waits for such a place.
func conflicts(steps []step, stale []int) (taken, awaited bool) {
	for _, i := range stale {
		if errors.Is(steps[i].err, ErrExists) {
			taken, awaited = true, awaited || len(steps[i].waiters) > 0
		}
	}
	return taken, awaited
}

// try makes the changes of the steps that have one, and returns the places of those that failed on an old view.
func (l *loop) try(ctx context.Context, steps []step, changes []Change) (stale []int) {
	errs := l.t.fib.Apply(ctx, changes)
	n := 0
	for i := range steps {
		s := &steps[i]
		if !s.change.Route.Prefix.IsValid() {
			continue
		}
		s.err = errs[n]
		n++
		switch {
		case errors.Is(s.err, ErrGone):
			delete(l.actual, s.key)
			stale = append(stale, i)
		case errors.Is(s.err, ErrExists):
			stale = append(stale, i)
		case s.err != nil:
		case s.change.Op == Delete:
			delete(l.actual, s.key)
		default:
			l.actual[s.key] = s.change.Route
		}
	}
	return stale
}

// record notes the outcome of a batch, for which the kernel took so long, and tells those who wait for it.
func (t *Table) record(steps []step, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.done.add(steps, took)
	failed, refused := 0, 0
	var first, firstRefused *step
	for i := range steps {
		s := &steps[i]
		if s.err != nil {
			if s.entry.attempts == 0 {
				failed++
				if first == nil {
					first = s
				}
			}
			t.fail(s, now)
		} else if t.succeed(s, now) {
			refused++
			if firstRefused == nil {
				firstRefused = s
			}
		}
		answer(s.waiters, s.err)
	}
	if first != nil {
		t.log.Warn("kernel refused routes", "count", failed, "first", first.change.String(), "error", first.err)
	}
	if firstRefused != nil {
		t.log.Warn("learned routes not installed", "count", refused, "first", firstRefused.key.Prefix, "reason", firstRefused.entry.err)
	}
}

func (t *Table) fail(s *step, now time.Time) {
	e := s.entry
	e.err = s.err
	e.retry = now.Add(backoff(e.attempts))
	e.attempts++
	if e.queued {
		return // changed meanwhile: its turn comes
	}
	if e.state != Failed {
		t.set(e, Failed, now)
	}
	t.failed[s.key] = struct{}{}
	t.retryBy(e.retry)
}

// succeed notes that the kernel is as it should be at a key, and reports whether it is because a learned route gave way now.
func (t *Table) succeed(s *step, now time.Time) (refused bool) {
	e := s.entry
	e.err, e.attempts = nil, 0
	delete(t.failed, s.key)
	if e.queued {
		return false
	}
	if _, _, wanted := t.winner(s.key); wanted {
		t.set(e, Installed, now)
		return false
	}
	why, refused := t.refused(s.key)
	if !refused {
		t.states[e.state]--
		delete(t.entries, s.key)
		return false
	}
	e.err = why
	if e.state == Refused {
		return false
	}
	t.set(e, Refused, now)
	return true
}

func answer(waiters []chan error, err error) {
	for _, w := range waiters {
		w <- err
	}
}

func backoff(attempts int) time.Duration {
	return min(minBackoff<<min(attempts, 16), maxBackoff)
}
