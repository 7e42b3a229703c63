package history

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrBefore is about a time that the ledger does not go back to.
var ErrBefore = errors.New("the ledger does not go back so far")

// Visit is given events one after another, until it returns false.
type Visit func(Entry) bool

// forward visits the wanted events from a place on, in the order in which they were recorded.
func (v *view) forward(ctx context.Context, from place, f *Filter, visit Visit) error {
	for at := from; at.part < len(v.parts); at = (place{part: at.part + 1}) {
		p := v.parts[at.part]
		if !f.may(p.span) || !v.ready(p) {
			continue
		}
		for ; at.block < len(p.entries); at.block++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !f.mayIn(&p.entries[at.block]) {
				continue
			}
			for _, e := range v.matching(at, f) {
				if !visit(e) {
					return nil
				}
			}
		}
		p.close()
	}
	return nil
}

const lastBlock = -1

// backward visits the wanted events from the end of a place back; block lastBlock is that of the part.
func (v *view) backward(ctx context.Context, from place, f *Filter, visit Visit) error {
	for at := from; at.part >= 0; at = (place{at.part - 1, lastBlock}) {
		p := v.parts[at.part]
		if !f.may(p.span) || !v.ready(p) {
			continue
		}
		if at.block == lastBlock || at.block >= len(p.entries) {
			at.block = len(p.entries) - 1
		}
		for ; at.block >= 0; at.block-- {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !f.mayIn(&p.entries[at.block]) {
				continue
			}
			for _, e := range slices.Backward(v.matching(at, f)) {
				if !visit(e) {
					return nil
				}
			}
		}
		p.close()
	}
	return nil
}

// Reader answers about what a ledger's directory holds.
type Reader interface {
	// Events visits the wanted events in the order in which they were recorded. A *DamageError says what could not be read.
	Events(ctx context.Context, f Filter, visit Visit) error
	// Last is the newest n of the wanted events, in that order.
	Last(ctx context.Context, n int, f Filter) ([]Entry, error)
	// At tells of an address, a container or a name whose or what it was at a time. ErrBefore: the ledger does not go back that far.
	At(ctx context.Context, at time.Time, f Filter) ([]Episode, error)
}

// patience is how long a question waits for what was recorded before it to be written.
const patience = time.Second

// current is what there is to read, with all that was recorded before. Where that cannot be written, the answer is of what could be.
func (l *Ledger) current(ctx context.Context) *view {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		l.log.Debug("asked of what is not all written", "err", err)
	}
	return l.shown.Load().view()
}

// Events implements Reader.
func (l *Ledger) Events(ctx context.Context, f Filter, visit Visit) error {
	return l.current(ctx).events(ctx, f, visit)
}

// Last implements Reader.
func (l *Ledger) Last(ctx context.Context, n int, f Filter) ([]Entry, error) {
	return l.current(ctx).last(ctx, n, f)
}

func (v *view) events(ctx context.Context, f Filter, visit Visit) error {
	defer v.close()
	if err := v.forward(ctx, place{}, &f, visit); err != nil {
		return err
	}
	return v.err()
}

func (v *view) last(ctx context.Context, n int, f Filter) ([]Entry, error) {
	defer v.close()
	var out []Entry
	err := v.backward(ctx, place{len(v.parts) - 1, lastBlock}, &f, func(e Entry) bool {
		if len(out) < n {
			out = append(out, e)
		}
		return len(out) < n
	})
	slices.Reverse(out)
	if err != nil {
		return nil, err
	}
	return out, v.err()
}

// Follow visits the wanted events that were recorded and written, and those that will be, until ctx ends or visit returns false. Whoever is
// slow is behind and loses nothing that retention leaves: the events come from the files. A gap in their numbers, with a filter of
// numbers only, is what retention took.
func (l *Ledger) Follow(ctx context.Context, f Filter, visit Visit) error {
	for {
		changed := l.changed()
		now, more := l.shown.Load(), true
		err := now.view().events(ctx, f, func(e Entry) bool {
			more = visit(e)
			return more
		})
		f.After = max(f.After, now.last())
		if !more || ctx.Err() != nil {
			return nil
		}
		if damage := (*DamageError)(nil); err != nil && !errors.As(err, &damage) {
			return err
		}
		select {
		case <-changed:
		case <-l.stopped:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
