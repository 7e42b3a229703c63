package ipam

import (
	"cmp"
	"net/netip"
)

// queue is a list of freed addresses, longest free first, threaded through the book's records.
type queue struct{ head, tail int32 }

var emptyQueue = queue{head: none, tail: none}

// earlier says whether an address freed at one time comes before one freed at another.
func earlier(at int64, addr netip.Addr, otherAt int64, other netip.Addr) bool {
	return cmp.Or(cmp.Compare(at, otherAt), addr.Compare(other)) < 0
}

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
