package routes

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// State of a wanted route.
type State uint8

// A wanted route begins as Pending.
const (
	Pending State = iota // not tried since it last changed
	Installed
	Failed  // the kernel does not take it; tried again with backoff
	Refused // not installed, for the host has a route of its own there; installed when that goes
)

func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Installed:
		return "installed"
	case Failed:
		return "failed"
	case Refused:
		return "refused"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Status of one wanted route.
type Status struct {
	Owner Owner
	Route Route
	State State
	Err   error     // why it failed or is refused
	Since time.Time // when it came into this state
}

// Status returns the wanted routes of the given owners, or of all if none is given, sorted by prefix, metric and owner.
func (t *Table) Status(of ...Owner) []Status {
	t.mu.Lock()
	var all []Status
	for i, routes := range t.desired {
		if len(of) > 0 && !slices.Contains(of, precedence[i]) {
			continue
		}
		for _, r := range routes {
			all = append(all, t.status(i, r))
		}
	}
	t.mu.Unlock()
	sortStatus(all)
	return all
}

func sortStatus(all []Status) {
	slices.SortFunc(all, func(a, b Status) int {
		if c := compareKeys(a.Route.Key(), b.Route.Key()); c != 0 {
			return c
		}
		return index(a.Owner) - index(b.Owner)
	})
}

func (t *Table) status(i int, r Route) Status {
	s := Status{Owner: precedence[i], Route: r}
	e := t.entries[r.Key()]
	s.State, s.Err, s.Since = e.state, e.err, e.since
	_, first, ok := t.winner(r.Key())
	if refusal, is := t.refusal(i, r.Prefix); is {
		s.State, s.Err = Refused, refusal
	} else if ok && first != i {
		s.State, s.Err = Failed, fmt.Errorf("%w (%s)", ErrShadowed, precedence[first])
	}
	return s
}

// WaitIdle returns once every wanted route has been tried since it last changed, whether it was installed or failed.
func (t *Table) WaitIdle(ctx context.Context) error {
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return ErrStopped
	}
	if !t.busy && len(t.queue) == 0 && len(t.urgent) == 0 && !t.prune {
		t.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	t.idle = append(t.idle, idle)
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the kernel to have all routes: %w", ctx.Err())
	}
}

func compareKeys(a, b Key) int {
	if c := a.Prefix.Compare(b.Prefix); c != 0 {
		return c
	}
	if a.Metric < b.Metric {
		return -1
	}
	if a.Metric > b.Metric {
		return 1
	}
	return 0
}
