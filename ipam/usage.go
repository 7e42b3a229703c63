package ipam

import (
	"math/big"
	"net/netip"
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

// Damaged returns the slots of the lease file that could not be believed when it was opened.
func (a *Allocator) Damaged() []Damaged {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.damaged)
}

// Quarantined returns the addresses that rest and those fenced off, by address.
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
	for _, q := range []queue{b.pools[0].freed, b.pools[1].freed, b.strays} {
		for i := q.tail; i != none && now-b.records[i].freed < b.quarantine; i = b.records[i].prev {
			visit(&b.records[i])
		}
	}
}

// Usage counts the addresses of each block, by prefix.
func (a *Allocator) Usage() []Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	resting := make(map[*block]uint64)
	a.book.resting(a.clock(a.opts.Now()), func(r *record) {
		if r.block != nil && !r.block.reserved[r.addr] {
			resting[r.block]++
		}
	})
	usage := make([]Usage, 0, len(a.book.blocks))
	for _, b := range a.book.blocks {
		u := Usage{Block: b.Block, Size: size(b.Prefix), Leased: b.leased, Quarantined: resting[b] + b.fenced + uint64(len(b.doubtful)), Reserved: a.book.unleased(b.reserved)}
		u.Block.Reserved = slices.Clone(b.Reserved)
		u.Free = new(big.Int).Sub(u.Size, new(big.Int).SetUint64(u.Leased+u.Quarantined+u.Reserved))
		usage = append(usage, u)
	}
	return usage
}

// unleased counts the addresses that no lease and no fence counts.
func (b *book) unleased(addrs map[netip.Addr]bool) uint64 {
	var n uint64
	for addr := range addrs {
		if i, known := b.byAddr[addr]; !known || b.records[i].state == freed {
			n++
		}
	}
	return n
}
