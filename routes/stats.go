package routes

import (
	"slices"
	"time"
)

// Stats counts what a Table wants and has done. Reading them costs the same however many routes there are.
type Stats struct {
	Wanted  map[Owner]int
	States  map[State]int // of wanted routes; one that is shadowed counts as Pending, also where it would be refused
	Foreign int           // routes of everybody else in the same table

	Changes uint64 // made in the kernel
	Errors  uint64 // changes that the kernel refused
	Repairs uint64 // routes that the kernel had otherwise than it should, without our doing
	Batches Durations
	Listing time.Duration // that the last listing of our routes took; 0 before the first
	Resyncs uint64        // listings
}

// Durations counts how long something took.
type Durations struct {
	Counts [len(DurationBounds) + 1]uint64 // one a bound, then those above the last; each counts its own bucket only
	Sum    time.Duration
}

// DurationBounds are the upper bounds of the buckets of Durations.
var DurationBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, time.Second,
}

func (d *Durations) add(took time.Duration) {
	at := slices.IndexFunc(DurationBounds[:], func(bound time.Duration) bool { return took <= bound })
	if at < 0 {
		at = len(DurationBounds)
	}
	d.Counts[at]++
	d.Sum += took
}

// done is what Stats has that only the past tells.
type done struct {
	changes, errors, repairs, resyncs uint64
	batches                           Durations
	listing                           time.Duration
}

// Stats returns the counts as they are now.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := &t.done
	s := Stats{
		Wanted: make(map[Owner]int, owners), Foreign: t.guard.count,
		Changes: d.changes, Errors: d.errors, Repairs: d.repairs, Batches: d.batches, Listing: d.listing, Resyncs: d.resyncs,
	}
	wanted := 0
	for i, routes := range t.desired {
		s.Wanted[precedence[i]] = len(routes)
		wanted += len(routes)
	}
	s.States = map[State]int{Installed: t.states[Installed], Failed: t.states[Failed], Refused: t.states[Refused]}
	s.States[Pending] = max(0, wanted-t.states[Installed]-t.states[Failed]-t.states[Refused]) // the kernel may not have seen yet what goes
	return s
}

// Amiss returns what Status does, but only the routes that failed or are refused. It costs next to nothing while there are none.
func (t *Table) Amiss() []Status {
	t.mu.Lock()
	wanted := 0
	for _, routes := range t.desired {
		wanted += len(routes)
	}
	var all []Status
	if t.states[Failed]+t.states[Refused] > 0 || wanted > t.states[Installed] {
		for i, routes := range t.desired {
			for _, r := range routes {
				if s := t.status(i, r); s.State == Failed || s.State == Refused {
					all = append(all, s)
				}
			}
		}
	}
	t.mu.Unlock()
	sortStatus(all)
	return all
}

// set moves an entry to another state. Caller holds mu.
func (t *Table) set(e *entry, to State, since time.Time) {
	t.states[e.state]--
	t.states[to]++
	e.state, e.since = to, since
}

// add counts a batch.
func (d *done) add(steps []step, took time.Duration) {
	asked := false
	for i := range steps {
		s := &steps[i]
		switch {
		case s.err != nil:
			d.errors++
		case s.change.Route.Prefix.IsValid():
			d.changes++
		}
		asked = asked || s.change.Route.Prefix.IsValid()
	}
	if asked {
		d.batches.add(took)
	}
}
