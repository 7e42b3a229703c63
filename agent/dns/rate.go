package dns

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// rate bounds how often each source asks. However many sources there are, and whatever they pretend to be, it takes the same memory:
// each source has a place in both rows, which it may share, and is only held up where both of them are full.
type rate struct {
	seeds [2]maphash.Seed
	rows  [2][8192]atomic.Int64 // when the source's next query would be due at an even pace, in nanoseconds since start
	start time.Time
}

func newRate() *rate {
	return &rate{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, start: time.Now()}
}

// allow counts a query of a source that may ask so often a second, and as many at once.
func (r *rate) allow(from netip.Addr, perSecond int, now time.Time) bool {
	at := now.Sub(r.start).Nanoseconds()
	latest := at + time.Second.Nanoseconds()
	var places [2]*atomic.Int64
	full := 0
	for i := range places {
		places[i] = &r.rows[i][maphash.Comparable(r.seeds[i], from)%uint64(len(r.rows[i]))]
		if places[i].Load() > latest {
			full++
		}
	}
	if full == len(places) {
		return false
	}
	// Two queries of one source at the same moment may count as one: the bound is about floods.
	for _, p := range places {
		p.Store(max(p.Load(), at) + time.Second.Nanoseconds()/int64(perSecond))
	}
	return true
}
