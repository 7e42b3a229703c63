package dns

import (
	"net/netip"
	"sync"
)

// quota shares a number of places among sources: a source may hold as many as are left free. So one that takes all it can get leaves half
// of them, two leave a third, and who has none finds one.
type quota struct {
	mu   sync.Mutex
	free int
	held map[netip.Addr]int
}

func newQuota(places int) *quota { return &quota{free: places, held: make(map[netip.Addr]int)} }

// take takes a place, to be given back.
func (q *quota) take(from netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[from] >= q.free {
		return false
	}
	q.free--
	q.held[from]++
	return true
}

func (q *quota) give(from netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free++
	if q.held[from]--; q.held[from] == 0 {
		delete(q.held, from)
	}
}

// taken is how many are.
func (q *quota) taken() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, h := range q.held {
		n += h
	}
	return n
}
