package history

import (
	"context"
	"fmt"
	"math"
	"time"
)

// At implements Reader.
func (l *Ledger) At(ctx context.Context, at time.Time, f Filter) ([]Episode, error) {
	return l.current(ctx).at(ctx, at, f)
}

// at finds the episodes of an address, a container or a name at a time.
//
// Where the clock was set back, a time may have come twice: then both are told.
func (v *view) at(ctx context.Context, at time.Time, f Filter) (found []Episode, err error) {
	defer v.close()
	a := &atQuery{view: v, at: at, seen: make(map[uint64]bool)}
	begin, ok := v.begin()
	if !ok {
		return nil, v.err()
	}
	if at.Before(begin) {
		return nil, fmt.Errorf("%w: it begins at %s", ErrBefore, begin.Format(time.RFC3339))
	}
	a.begin = begin
	if f.Address.IsValid() {
		err = a.address(ctx, f)
	} else {
		err = a.others(ctx, f)
	}
	if err != nil {
		return nil, err
	}
	return a.found, v.err()
}

// atQuery is what somebody wants to know of one time.
type atQuery struct {
	*view
	at, begin time.Time
	found     []Episode
	seen      map[uint64]bool // by the number of the first event
}

// keep adds an episode to the answer, once.
func (a *atQuery) keep(e *Episode) {
	if !a.seen[e.first] {
		a.seen[e.first] = true
		a.found = append(a.found, *e)
	}
}

// begin is how far back the ledger goes.
func (v *view) begin() (time.Time, bool) {
	if len(v.parts) == 0 {
		return time.Time{}, false
	}
	begin := v.parts[0].min
	for _, p := range v.parts {
		begin = min(begin, p.min)
	}
	return fromMicros(begin), true
}

// reboots are where the host booted anew.
func (v *view) reboots() []boundary {
	var all []boundary
	for i, p := range v.parts {
		if i > 0 && p.boot != v.parts[i-1].boot {
			all = append(all, boundary{p.first, fromMicros(p.min)})
		}
	}
	return all
}

// positions are the blocks in which a time came: the last that began before it, or, where the clock was set back, the last before
// each time that it was.
func (v *view) positions(at int64) []place {
	var found []place
	last := -1
	for i, p := range v.parts {
		if p.min > at {
			continue
		}
		if last = i; p.max < at || !v.ready(p) {
			continue
		}
		for k, e := range p.entries {
			next := v.nextMin(place{i, k})
			setBack := next < e.max-clockStep
			if e.min <= at && (next > at || setBack && at <= e.max) {
				found = append(found, place{i, k})
			}
		}
	}
	if len(found) > 0 || last < 0 {
		return found
	}
	p := v.parts[last]
	if !v.ready(p) {
		return nil
	}
	for k := len(p.entries) - 1; k >= 0; k-- {
		if p.entries[k].min <= at {
			return []place{{last, k}}
		}
	}
	return nil
}

// nextMin is the earliest time after a block, as far as it can be told without reading.
func (v *view) nextMin(at place) int64 {
	if p := v.parts[at.part]; at.block+1 < len(p.entries) {
		return p.entries[at.block+1].min
	}
	if at.part+1 < len(v.parts) {
		return v.parts[at.part+1].min
	}
	return math.MaxInt64
}

// address finds who had an address: from where the time came back to the last event that says who took or left it, or else on to the
// first one.
func (a *atQuery) address(ctx context.Context, f Filter) error {
	for _, from := range a.positions(micros(a.at)) {
		key, after, err := a.holder(ctx, from, f)
		if err != nil {
			return err
		}
		if key == (holder{}) {
			continue
		}
		if err := a.episode(ctx, from, key, f, after); err != nil {
			return err
		}
	}
	return nil
}

// holder finds whose an address was, and the event that says so; nobody's, the zero holder.
func (a *atQuery) holder(ctx context.Context, from place, f Filter) (key holder, said Entry, err error) {
	refused := make(map[holder]bool)
	inBlock := true
	err = a.backward(ctx, from, &f, func(e Entry) bool {
		if inBlock && e.Time.After(a.at) {
			return true
		}
		inBlock = false
		switch k := holderOf(&e); e.Kind {
		case Refuse:
			refused[k] = true
			return true
		case Attach, Describe:
			key = k
		case Allocate:
			if !refused[k] {
				key = k
			}
		case Detach, Release:
		default:
			return true
		}
		said = e
		return false
	})
	if err != nil || said.Number != 0 {
		return key, said, err
	}
	// Nothing before: who ends it had it, if nobody else's beginning comes first.
	err = a.forward(ctx, from, &f, func(e Entry) bool {
		switch e.Kind {
		case Detach, Describe:
			key, said = holderOf(&e), e
		case Refuse:
			return true
		}
		return false
	})
	return key, said, err
}

// episode reads a container's events around a place, back to where its episode begins and on to where it ends.
func (a *atQuery) episode(ctx context.Context, from place, key holder, f Filter, said Entry) error {
	own := Filter{Container: key.container}
	var before []Entry
	err := a.backward(ctx, from, &own, func(e Entry) bool {
		if holderOf(&e) != key || e.Number > said.Number {
			return true
		}
		before = append(before, e)
		if e.Kind == Attach { // its lease is not far
			own.Since = e.Time.Add(-e.Duration - nearBy)
		}
		ended := e.Number < said.Number && (e.Kind == Detach || e.Kind == Release)
		return e.Kind != Allocate && !ended
	})
	if err != nil {
		return err
	}
	p := newPairing(a.at, a.reboots())
	for i := len(before) - 1; i >= 0; i-- {
		p.add(before[i])
	}
	own = Filter{Container: key.container, After: said.Number - 1}
	if len(before) > 0 {
		own.After = before[0].Number
	}
	err = a.forward(ctx, from, &own, func(e Entry) bool {
		if holderOf(&e) != key {
			return true
		}
		p.add(e)
		if last := p.last[key]; p.open[key] == nil && last != nil && last.End == Released && last.From.IsZero() {
			own.Until = e.Time.Add(nearBy) // why it was not attached comes after that
			return true
		}
		return p.open[key] != nil || e.Number < said.Number
	})
	if err != nil {
		return err
	}
	for _, one := range p.episodes() {
		if !one.has(f.Address) || !one.covers(a.at, a.begin) {
			continue
		}
		if one.End == Lives {
			if err := a.replaced(ctx, from, f, one); err != nil {
				return err
			}
		}
		a.keep(one)
	}
	return nil
}

// nearBy is how far apart the events of one attach may be, besides what it took.
const nearBy = time.Minute

// replaced ends an episode whose end is lost where somebody else has its address.
func (a *atQuery) replaced(ctx context.Context, from place, f Filter, one *Episode) error {
	f.Kinds, f.After = []Kind{Allocate, Attach}, one.first
	return a.forward(ctx, from, &f, func(e Entry) bool {
		if holderOf(&e) == (holder{one.Container, one.Interface}) {
			return true
		}
		one.End, one.To = Replaced, e.Time
		return false
	})
}

// others finds what a container was, or who had a name. Nothing says how far back somebody may have got a name who still has it, so all
// that the ledger has of it is read.
func (a *atQuery) others(ctx context.Context, f Filter) error {
	candidates := make(map[holder]bool)
	var order []holder
	reboots := a.reboots()
	p := newPairing(a.at, reboots)
	if err := a.forward(ctx, place{}, &f, func(e Entry) bool { p.add(e); return true }); err != nil {
		return err
	}
	for _, one := range p.episodes() {
		if key := (holder{one.Container, one.Interface}); one.covers(a.at, a.begin) && !candidates[key] {
			candidates[key] = true
			order = append(order, key)
		}
	}
	// Only all of a container's events say what it was called at the time.
	for _, key := range order {
		p := newPairing(a.at, reboots)
		own := Filter{Container: key.container}
		err := a.forward(ctx, place{}, &own, func(e Entry) bool {
			if holderOf(&e) == key {
				p.add(e)
			}
			return true
		})
		if err != nil {
			return err
		}
		for _, one := range p.episodes() {
			if one.covers(a.at, a.begin) && f.names(one) {
				a.keep(one)
			}
		}
	}
	return nil
}

// names tells whether an episode is one of what the filter asks for by name or container.
func (f *Filter) names(e *Episode) bool {
	as := Entry{Event: Event{Container: e.Container, Name: e.Name, Aliases: e.Aliases}, Number: math.MaxUint64}
	return (&Filter{Container: f.Container, Name: f.Name, Subject: f.Subject}).wants(&as)
}
