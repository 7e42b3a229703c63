package blocks

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/ipam"
)

// chronicle tells the ledger what becomes of the blocks, by comparing them with what was told before: whatever led there, each change is
// told once. The record has what earlier runs told.
type chronicle struct {
	ledger Ledger // nil: nothing is told
	told   map[netip.Prefix]phase
	took   map[netip.Prefix]time.Duration // of claims that have not been told
}

// phase is what the ledger tells stages apart by.
type phase uint8

const (
	held phase = iota
	going
	gone // another host's
)

func (s stage) phase() phase {
	switch s {
	case draining, leaving:
		return going
	case lost:
		return gone
	}
	return held
}

// remember takes what an earlier run told from its record.
func (c *chronicle) remember(r ipam.Record) {
	c.told, c.took = make(map[netip.Prefix]phase), make(map[netip.Prefix]time.Duration)
	for _, b := range r.Blocks {
		switch {
		case b.Lost:
			c.told[b.Prefix] = gone
		case b.Released:
			c.told[b.Prefix] = going
		default:
			c.told[b.Prefix] = held
		}
	}
}

// claimed notes how long a claim took.
func (c *chronicle) claimed(p netip.Prefix, took time.Duration) { c.took[p] = took }

// follow tells what has changed. A block that is claimed by its configuration alone is not this host's yet; one that took the place of
// its parts, or of which a part is left, neither came nor went.
func (c *chronicle) follow(bs []owned) {
	defer clear(c.took)
	if c.ledger == nil {
		return
	}
	now := make(map[netip.Prefix]owned, len(bs))
	for _, b := range bs {
		if !b.pending() {
			now[b.Prefix] = b
		}
	}
	had, have := keys(c.told), keys(now)
	for _, p := range have {
		b := now[p]
		was, known := c.told[p]
		if !known {
			was = c.partOf(p)
			known = was != gone && overlaps(had, p) && contains(had, p)
		}
		c.told[p] = b.stage.phase()
		c.change(b, was, known)
	}
	for _, p := range had {
		if _, still := now[p]; still {
			continue
		}
		if c.told[p] != gone && !contains(have, p) {
			c.tell(history.Event{Kind: history.BlockRelease, Prefix: p})
		}
		delete(c.told, p)
	}
}

// partOf is the phase of the block that p was told of as a part of; held if it was of none.
func (c *chronicle) partOf(p netip.Prefix) phase {
	for q, was := range c.told {
		if within(p, q) {
			return was
		}
	}
	return held
}

func (c *chronicle) change(b owned, was phase, known bool) {
	e := history.Event{Prefix: b.Prefix, Pool: b.Pool}
	is := b.stage.phase()
	switch {
	case is == gone && (!known || was != gone):
		e.Kind = history.BlockLost
	case is == going && known && was == held:
		e.Kind = history.BlockDrain
		if e.Detail = "not needed"; b.released {
			e.Detail = "released"
		}
	case is == held && !known:
		e.Kind, e.Duration, e.Detail = history.BlockClaim, c.took[b.Prefix], b.Source
	case is == held && was == gone:
		e.Kind, e.Duration, e.Detail = history.BlockClaim, c.took[b.Prefix], b.Source+": it had been lost"
	case is == held && was == going:
		e.Kind, e.Detail = history.BlockClaim, "in use again: it had been on its way out"
	default:
		return
	}
	c.tell(e)
}

func (c *chronicle) tell(e history.Event) {
	e.Time = time.Now()
	c.ledger.Record(e)
}

func keys[V any](m map[netip.Prefix]V) []netip.Prefix {
	ps := make([]netip.Prefix, 0, len(m))
	for p := range m {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, netip.Prefix.Compare)
	return ps
}
