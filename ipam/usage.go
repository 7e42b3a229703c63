package ipam

import (
	"math/big"
	"slices"
	"time"
)

// Leases returns every lease, by address.
func (a *Allocator) Leases() []Lease {
	a.mu.Lock()
	leases := make([]Lease, 0, len(a.book.held)*families)
	for _, h := range a.book.held {
		for _, i := range h.all() {
			leases = append(leases, a.lease(i))
		}
	}
	a.mu.Unlock()
	slices.SortFunc(leases, func(x, y Lease) int { return x.Addr.Compare(y.Addr) })
	return leases
}

// Count returns how many addresses are leased, and how many of these are in no current block.
func (a *Allocator) Count() (leased, stray int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.book.held {
		for _, i := range h.all() {
			leased++
			if a.book.records[i].block == nil {
				stray++
			}
		}
	}
	return leased, stray
}

// Damaged returns the slots of the lease file that could not be believed when it was opened.
func (a *Allocator) Damaged() []Damaged {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.damaged)
}

// Quarantined returns the addresses that rest after a lease and those fenced off, by address.
func (a *Allocator) Quarantined() []Quarantined {
	a.mu.Lock()
	var out []Quarantined
	a.book.resting(a.clock(a.opts.Now()), func(r *record) {
		q := Quarantined{Addr: r.addr, Since: a.start.Add(time.Duration(r.freed))}
		q.Until = q.Since.Add(time.Duration(a.book.quarantine))
		out = append(out, q)
	})
	for _, d := range a.damaged {
		if i, ok := a.book.byAddr[d.Addr]; ok && int(i) == d.Slot {
			out = append(out, Quarantined{Addr: d.Addr})
		}
	}
	for _, b := range a.book.blocks {
		for addr := range b.doubtful {
			out = append(out, Quarantined{Addr: addr})
		}
	}
	for i := range out {
		if b := a.book.blockOf(out[i].Addr); b != nil {
			out[i].Block = b.Prefix
		}
	}
	a.mu.Unlock()
	slices.SortFunc(out, func(x, y Quarantined) int { return x.Addr.Compare(y.Addr) })
	return out
}

// resting visits the freed addresses whose quarantine is not over.
func (b *book) resting(now int64, visit func(*record)) {
	queues := []queue{b.strays}
	for _, p := range b.pools {
		for f := range p.stocks {
			queues = append(queues, p.stocks[f].freed)
		}
	}
	for _, q := range queues {
		for i := q.tail; i != none && now-b.records[i].freed < b.quarantine; i = b.records[i].prev {
			visit(&b.records[i])
		}
	}
}

// Usage counts the addresses of each block, by prefix.
func (a *Allocator) Usage() []Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock(a.opts.Now())
	a.book.settle(now)
	counts := a.book.count(now)
	usage := make([]Usage, 0, len(a.book.blocks))
	for _, b := range a.book.blocks {
		usage = append(usage, b.usage(counts[b]))
	}
	return usage
}

// count is what only going through the records can tell of a block.
type count struct {
	resting, fenced uint64
	// Those that are leased or fenced off, and reserved or in use as well.
	reserved, inUse int64
	rests           int64 // those with a slot in the spans that rest
}

func (b *book) count(now int64) map[*block]*count {
	counts := make(map[*block]*count, len(b.blocks))
	for _, blk := range b.blocks {
		counts[blk] = &count{}
	}
	b.resting(now, func(r *record) {
		if r.block != nil && !r.block.closed.contains(r.addr) {
			counts[r.block].resting++
		}
	})
	for i := range b.records {
		r := &b.records[i]
		if r.block == nil {
			continue
		}
		if r.state == fenced {
			counts[r.block].fenced++
		}
		if len(r.block.notFresh) > 0 {
			counts[r.block].special(r)
		}
	}
	return counts
}

// special counts a record that may be one of those with two reasons not to be free.
func (c *count) special(r *record) {
	switch held := r.state != freed; {
	case r.block.reserved.contains(r.addr):
		if held {
			c.reserved++
		}
	case r.block.inUse.contains(r.addr):
		if held {
			c.inUse++
		}
	default:
		if _, rests := r.block.restsSince(r.addr); rests {
			c.rests++
		}
	}
}

func (b *block) usage(c *count) Usage {
	u := Usage{
		Block: b.Block, Size: size(b.Prefix),
		Leased: b.leased, Fenced: c.fenced + uint64(len(b.doubtful)),
	}
	u.Quarantined = c.resting + u.Fenced
	u.Block.Reserved = slices.Clone(b.Reserved)
	u.Reserved = subtract(b.reserved.size(), c.reserved)
	u.InUse = subtract(b.inUse.size(), c.inUse)
	left := new(big.Int).Sub(u.Size, new(big.Int).SetUint64(u.Leased+u.Quarantined))
	left.Sub(left.Sub(left, u.Reserved), u.InUse)
	if b.Draining {
		u.Free, u.Withheld = new(big.Int), left
		return u
	}
	u.Withheld = new(big.Int)
	for _, r := range b.rests {
		u.Withheld.Add(u.Withheld, r.span.size())
	}
	for addr := range b.doubtful {
		if _, rests := b.restsSince(addr); rests {
			c.rests++
		}
	}
	subtract(u.Withheld, c.rests)
	u.Free = left.Sub(left, u.Withheld)
	return u
}

// subtract takes n away from x, and returns x.
func subtract(x *big.Int, n int64) *big.Int { return x.Sub(x, big.NewInt(n)) }
