package ipam

import "net/netip"

// Leased says whether a key holds the address.
func (a *Allocator) Leased(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, known := a.book.byAddr[addr]
	return known && a.book.records[i].state == leased
}
