package ipam

import (
	"fmt"
	"net/netip"
)

// Transfer makes what the keys in from hold, at most an address of each family in all, the one allocation of the key to, which
// holds nothing yet. The file says so before it returns. On an error each key holds what it held.
//
// A crash in between can leave a part with its old key; what came to the new key by then is freed at the next start, as of any
// allocation that nobody was told of.
func (a *Allocator) Transfer(to Key, from ...Key) ([]Lease, error) {
	if err := to.Validate(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	leases, err := a.transfer(to, from)
	if err != nil {
		return nil, fmt.Errorf("transfer to %s: %w", to, err)
	}
	return leases, nil
}

func (a *Allocator) transfer(to Key, from []Key) ([]Lease, error) {
	if a.closed {
		return nil, ErrClosed
	}
	if a.book.held[to] != nil {
		return nil, fmt.Errorf("%w: it holds addresses already", ErrMismatch)
	}
	slots, err := a.book.givenUp(from)
	if err != nil {
		return nil, err
	}
	if err := a.heal(); err != nil {
		return nil, err
	}
	allocated := a.opts.Now().UnixNano()
	err = a.commit(slots, func(i int32) entry {
		e := a.entryOf(i)
		e.key, e.members, e.allocated = to, uint8(len(slots)), allocated
		return e
	})
	if err != nil {
		return nil, err
	}
	return a.leases(a.book.transfer(to, from, slots, allocated)), nil
}

// givenUp returns the slots of the keys, or says why they cannot be one allocation.
func (b *book) givenUp(from []Key) ([]int32, error) {
	var slots []int32
	var has [families]bool
	for _, key := range from {
		h := b.held[key]
		if h == nil || h.n < int(h.members) {
			return nil, fmt.Errorf("%w: %s holds nothing that could be read whole", ErrMismatch, key)
		}
		for _, i := range h.all() {
			f := family(b.records[i].addr)
			if has[f] {
				return nil, fmt.Errorf("%w: two addresses of %s", ErrMismatch, familyName[f])
			}
			has[f] = true
			slots = append(slots, i)
		}
	}
	if len(slots) == 0 {
		return nil, fmt.Errorf("%w: from no key", ErrMismatch)
	}
	return slots, nil
}

func (b *book) transfer(to Key, from []Key, slots []int32, allocated int64) *holding {
	for _, key := range from {
		delete(b.held, key)
	}
	h := &holding{key: to, members: uint8(len(slots)), allocated: allocated}
	for _, i := range slots {
		if blk := b.records[i].block; blk != nil {
			blk.leased-- // bind counts it again
		}
		b.bind(h, i)
	}
	b.held[to] = h
	return h
}

// Holder returns the key that holds an address.
func (a *Allocator) Holder(addr netip.Addr) (Key, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, known := a.book.byAddr[addr.Unmap()]
	if !known || a.book.records[i].held == nil {
		return Key{}, false
	}
	return a.book.records[i].held.key, true
}
