package ipam

import (
	"fmt"
	"net/netip"
)

// freshLimit is up to how many addresses of a block are used before those that have rested are preferred to new ones.
// It bounds memory and file for an IPv6 block, which never runs out of new ones.
const freshLimit = 1 << 16

// block is a Block in use.
type block struct {
	Block
	reserved map[netip.Addr]bool
	doubtful map[netip.Addr]bool // never used as far as is known, but see doubt
	cursor   netip.Addr          // addresses before it are known or reserved; the zero Addr at the end
	known    uint64              // addresses of the block that have a slot
	leased   uint64
	fenced   uint64
}

func newBlock(b Block) *block {
	n := &block{Block: b, cursor: b.Prefix.Addr(), reserved: make(map[netip.Addr]bool, len(b.Reserved))}
	for _, addr := range b.Reserved {
		n.reserved[addr] = true
	}
	return n
}

// fresh returns the first address never used. Each address is passed over once, so this is O(1) on average.
func (b *block) fresh(known map[netip.Addr]int32) (netip.Addr, bool) {
	for b.cursor.IsValid() && b.Prefix.Contains(b.cursor) {
		if _, used := known[b.cursor]; !used && !b.reserved[b.cursor] && !b.doubtful[b.cursor] {
			return b.cursor, true
		}
		b.cursor = b.cursor.Next()
	}
	b.cursor = netip.Addr{}
	return netip.Addr{}, false
}

// doubt fences off the addresses that n damaged slots may have had, whatever address can be read in them now. As new
// addresses are taken in order, the lost ones are among the first n of those that look new, in one block or another;
// all but those that somebody asked for by name.
func (b *block) doubt(n int, known map[netip.Addr]int32) {
	b.doubtful = make(map[netip.Addr]bool, n)
	for range n {
		addr, ok := b.fresh(known)
		if !ok {
			return
		}
		b.doubtful[addr] = true
	}
}

// pool is the blocks of a family and the queue of addresses freed in them.
type pool struct {
	blocks []*block // in the caller's order
	open   []*block // those of blocks that have addresses never used, below freshLimit
	wide   []*block // the same, above it
	freed  queue
}

// fresh returns an address never used: of a block below freshLimit or, if beyond, of one above it.
func (p *pool) fresh(known map[netip.Addr]int32, beyond bool) (*block, netip.Addr) {
	list := &p.open
	if beyond {
		list = &p.wide
	}
	for len(*list) > 0 {
		b := (*list)[0]
		if !beyond && b.known >= freshLimit {
			p.wide = append(p.wide, b)
		} else if addr, ok := b.fresh(known); ok {
			return b, addr
		}
		*list = (*list)[1:]
	}
	return nil, netip.Addr{}
}

// String names the blocks for an error message.
func (p *pool) String() string {
	if len(p.blocks) == 1 {
		return p.blocks[0].Prefix.String()
	}
	return fmt.Sprintf("%d blocks", len(p.blocks))
}

// queue is a list of freed addresses, longest free first, threaded through the book's records.
type queue struct{ head, tail int32 }

var emptyQueue = queue{head: none, tail: none}

// insert puts a record behind those freed earlier or at the same time: in practice at the end.
func (b *book) insert(q *queue, i int32) {
	r := &b.records[i]
	after := q.tail
	for after != none && b.records[after].freed > r.freed {
		after = b.records[after].prev
	}
	before := q.head
	if after != none {
		before = b.records[after].next
	}
	r.prev, r.next = after, before
	b.link(q, after, before, i, i)
}

func (b *book) remove(q *queue, i int32) {
	r := &b.records[i]
	b.link(q, r.prev, r.next, r.next, r.prev)
	r.prev, r.next = none, none
}

// link makes first follow after, and last precede before.
func (b *book) link(q *queue, after, before, first, last int32) {
	if after == none {
		q.head = first
	} else {
		b.records[after].next = first
	}
	if before == none {
		q.tail = last
	} else {
		b.records[before].prev = last
	}
}
