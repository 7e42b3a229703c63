package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// freshLimit is up to how many addresses of a block are used before those that have rested are preferred to new ones.
// It bounds memory and file for an IPv6 block, which never runs out of new ones.
const freshLimit = 1 << 16

// block is a Block in use.
type block struct {
	Block
	home     *stock
	reserved ranges
	inUse    ranges              // by something else, and not reserved
	closed   ranges              // both together
	doubtful map[netip.Addr]bool // never used as far as is known, but see doubt
	cursor   walk                // over what is neither closed nor resting
	rests    []rest              // what left inUse, longest ago first, and is not closed
	notFresh ranges              // closed and rests together
	known    uint64              // addresses of the block that have a slot
	leased   uint64
}

// rest is a part of a block whose addresses count as freed at one time, but for those with a slot, which tells.
type rest struct {
	walk
	span  Range
	since int64 // on the book's clock
}

// walk goes once through a range.
type walk struct{ next, last netip.Addr }

func newBlock(b Block, inUse ranges) *block {
	n := &block{Block: b, reserved: union(b.Reserved...)}
	n.inUse = inUse.clip(b.Prefix).minus(n.reserved)
	n.closed = union(slices.Concat(n.reserved, n.inUse)...)
	n.notFresh = n.closed
	whole := RangeOf(b.Prefix)
	n.cursor = walk{whole.First, whole.Last}
	return n
}

// lend lets the parts of spans that are in the block rest. Later calls are for spans that left later.
func (b *block) lend(spans ranges, since int64) {
	for _, r := range spans.clip(b.Prefix).minus(b.closed) {
		b.rests = append(b.rests, rest{walk: walk{r.First, r.Last}, span: r, since: since})
		b.notFresh = union(append(b.notFresh[:len(b.notFresh):len(b.notFresh)], r)...)
	}
}

// find returns the first address from the walk's place that was never used and is not in over. The walk stays there,
// and passes each address once, and each range at one step, so this is O(1) on average.
func (b *block) find(w *walk, known map[netip.Addr]int32, over ranges) (netip.Addr, bool) {
	for w.next.IsValid() && !w.last.Less(w.next) {
		if r, in := over.find(w.next); in {
			w.next = r.Last.Next()
			continue
		}
		if _, used := known[w.next]; !used && !b.doubtful[w.next] {
			return w.next, true
		}
		w.next = w.next.Next()
	}
	w.next = netip.Addr{}
	return netip.Addr{}, false
}

// fresh returns the first address never used.
func (b *block) fresh(known map[netip.Addr]int32) (netip.Addr, bool) {
	return b.find(&b.cursor, known, b.notFresh)
}

// rested returns the address without a slot that rests longest, and since when.
func (b *block) rested(known map[netip.Addr]int32) (addr netip.Addr, since int64, ok bool) {
	for i := range b.rests {
		if addr, ok := b.find(&b.rests[i].walk, known, nil); ok {
			return addr, b.rests[i].since, true
		}
	}
	return netip.Addr{}, 0, false
}

// restsSince returns since when an address without a slot rests, if it does.
func (b *block) restsSince(addr netip.Addr) (since int64, ok bool) {
	for _, r := range b.rests {
		if r.span.Contains(addr) {
			return r.since, true
		}
	}
	return 0, false
}

// doubt fences off the addresses that n damaged slots may have had, whatever address can be read in them now. As new
// addresses are taken in order, the lost ones are among the first n of those that look new, in one block or another;
// all but those that somebody asked for by name. Those that are closed need no fence, and do not count.
func (b *block) doubt(n int, known map[netip.Addr]int32) {
	b.doubtful = make(map[netip.Addr]bool, n)
	from := b.cursor
	for range n {
		addr, ok := b.find(&from, known, b.closed)
		if !ok {
			return
		}
		b.doubtful[addr] = true
	}
}

// pool is the blocks of one name.
type pool struct {
	name   string
	stocks [families]stock
}

func newPool(name string) *pool {
	return &pool{name: name, stocks: [families]stock{{freed: emptyQueue}, {freed: emptyQueue}}}
}

// stock is the blocks of a pool that are of one family, and the queue of addresses freed in them. Blocks that drain
// are only counted.
type stock struct {
	blocks   []*block // in the caller's order
	draining int
	open     []*block // those of blocks that have addresses never used, below freshLimit
	wide     []*block // the same, above it
	freed    queue
}

func (s *stock) add(b *block) {
	b.home = s
	if b.Draining {
		s.draining++
		return
	}
	s.blocks = append(s.blocks, b)
	s.open = append(s.open, b)
}

func (s *stock) empty() bool { return len(s.blocks)+s.draining == 0 }

// fresh returns an address never used: of a block below freshLimit or, if beyond, of one above it.
func (s *stock) fresh(known map[netip.Addr]int32, beyond bool) (*block, netip.Addr) {
	list := &s.open
	if beyond {
		list = &s.wide
	}
	for len(*list) > 0 {
		b := (*list)[0]
		if !beyond && b.known >= freshLimit {
			s.wide = append(s.wide, b)
		} else if addr, ok := b.fresh(known); ok {
			return b, addr
		}
		*list = (*list)[1:]
	}
	return nil, netip.Addr{}
}

// rested returns the address without a slot that rests longest.
func (s *stock) rested(known map[netip.Addr]int32) (pick, bool) {
	best := pick{slot: none}
	for _, b := range s.blocks {
		addr, since, ok := b.rested(known)
		if ok && (best.block == nil || earlier(since, addr, best.freed, best.addr)) {
			best.addr, best.block, best.freed = addr, b, since
		}
	}
	return best, best.block != nil
}

// exhausted says for an error message what there is nothing left of.
func (s *stock) exhausted(family string) string {
	switch {
	case len(s.blocks) == 0 && s.draining == 1:
		return fmt.Sprintf("the only %s block is draining", family)
	case len(s.blocks) == 0:
		return fmt.Sprintf("all %d %s blocks are draining", s.draining, family)
	case len(s.blocks) == 1 && s.draining == 0:
		return fmt.Sprintf("every %s address of %s is leased, reserved or in use", family, s.blocks[0].Prefix)
	case s.draining == 0:
		return fmt.Sprintf("every %s address of %d blocks is leased, reserved or in use", family, len(s.blocks))
	default:
		return fmt.Sprintf("every %s address is leased, reserved or in use, or in one of the %d blocks that are draining", family, s.draining)
	}
}
