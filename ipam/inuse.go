package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// leave is what left the set of what something else uses, at one time.
type leave struct {
	spans ranges
	at    int64 // on the book's clock
}

// SetInUse says what something else than a lease uses of this host's blocks: all of it. Nothing of it is handed out;
// leases in it stay. What leaves the set goes back as if freed now. The set outlasts SetBlocks, but not Close.
func (a *Allocator) SetInUse(set []InUse) {
	sorted := sortInUse(set)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.book.setInUse(sorted, a.clock(a.opts.Now()))
}

// InUse returns what SetInUse and Reject have said, sorted and without invalid prefixes.
func (a *Allocator) InUse() []InUse {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.book.inUse)
}

// Reject is for an allocation whose address turns out to be in use by something else before a container has it. It
// takes back what key holds and adds use to what SetInUse has said, so that the next Allocate gives another address.
// On an error neither is done.
func (a *Allocator) Reject(key Key, use InUse) error {
	added := sortInUse([]InUse{use})
	if len(added) == 0 {
		return fmt.Errorf("reject what %s holds: %w: no valid prefix is in use", key, ErrInvalidWish)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.release(key); err != nil {
		return fmt.Errorf("reject what %s holds, as %s is used by %s: %w", key, added[0].Prefix, added[0].By, err)
	}
	a.book.setInUse(sortInUse(append(added, a.book.inUse...)), a.clock(a.opts.Now()))
	return nil
}

func sortInUse(set []InUse) []InUse {
	sorted := make([]InUse, 0, len(set))
	for _, u := range set {
		if u.Prefix.IsValid() {
			sorted = append(sorted, InUse{Prefix: u.Prefix.Masked(), By: u.By})
		}
	}
	slices.SortFunc(sorted, func(x, y InUse) int {
		return cmp.Or(comparePrefix(x.Prefix, y.Prefix), cmp.Compare(x.By, y.By))
	})
	return slices.Compact(sorted)
}

func (b *book) setInUse(set []InUse, now int64) {
	if slices.Equal(set, b.inUse) {
		return
	}
	b.settle(now)
	old := b.usedRanges()
	b.inUse = set
	used := b.usedRanges()
	if slices.Equal(old, used) {
		return // by somebody else now
	}
	if gone := old.minus(used); len(gone) > 0 {
		b.leave(gone, now)
	}
	b.arrange()
}

// leave makes spans count as freed now. That an address was freed before does not let it rest for less.
func (b *book) leave(spans ranges, now int64) {
	for i := range b.left {
		b.left[i].spans = b.left[i].spans.minus(spans)
	}
	b.left = slices.DeleteFunc(b.left, func(l leave) bool { return len(l.spans) == 0 })
	b.left = append(b.left, leave{spans: spans, at: now})
	for i := range b.records {
		if r := &b.records[i]; r.state == freed && spans.contains(r.addr) {
			r.freed = max(r.freed, now)
		}
	}
}

// settle makes addresses that have left the set of what something else uses new again, once they have rested.
func (b *book) settle(now int64) {
	n := 0
	for n < len(b.left) && now-b.left[n].at >= b.quarantine {
		n++
	}
	if n > 0 {
		b.left = slices.Clone(b.left[n:])
		b.arrange()
	}
}

func (b *book) usedRanges() ranges {
	rs := make([]Range, len(b.inUse))
	for i, u := range b.inUse {
		rs[i] = RangeOf(u.Prefix)
	}
	return union(rs...)
}

// userOf tells what uses an address, and nothing smaller around it.
func (b *book) userOf(addr netip.Addr) string {
	by := ""
	for _, u := range b.inUse { // the longer of two prefixes comes later
		if u.Prefix.Contains(addr) {
			by = cmp.Or(u.By, by)
		}
	}
	return cmp.Or(by, "something else")
}
