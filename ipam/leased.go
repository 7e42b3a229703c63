package ipam

import "net/netip"

// LeasedIn says whether a key holds an address of the prefix.
func (a *Allocator) LeasedIn(p netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.IsSingleIP() {
		i, known := a.book.byAddr[p.Addr()]
		return known && a.book.records[i].state == leased
	}
	for i := range a.book.records {
		if r := &a.book.records[i]; r.state == leased && p.Contains(r.addr) {
			return true
		}
	}
	return false
}

// PoolOf names the pool of the block that contains the address; empty if there is none.
func (a *Allocator) PoolOf(addr netip.Addr) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.book.blockOf(addr); b != nil {
		return b.Pool
	}
	return ""
}
