package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// wish is a Request, sorted out.
type wish struct {
	pool   string // "" for any
	family Family
	addrs  [families]netip.Addr
}

func (r Request) wish() (wish, error) {
	w := wish{pool: r.Pool, family: r.Family}
	if err := r.Family.Validate(); err != nil {
		return w, err
	}
	for _, addr := range r.Addresses {
		addr = addr.Unmap()
		if !addr.IsValid() {
			return w, fmt.Errorf("%w: an address is empty", ErrInvalidWish)
		}
		if !r.Family.Has(addr) {
			return w, fmt.Errorf("%w: %s is not of the wanted family %s", ErrInvalidWish, addr, r.Family)
		}
		f := family(addr)
		if w.addrs[f].IsValid() && w.addrs[f] != addr {
			return w, fmt.Errorf("%w: %s and %s are both %s; a key gets one of each family", ErrInvalidWish, w.addrs[f], addr, familyName[f])
		}
		w.addrs[f] = addr
	}
	return w, nil
}

// inPool adds the pool to an error message, where one was named.
func (w *wish) inPool() string {
	if w.pool == "" {
		return ""
	}
	return fmt.Sprintf(" is not in pool %q", w.pool)
}

// pick is an address that can be leased.
type pick struct {
	addr  netip.Addr
	block *block
	slot  int32 // none if the address has none yet
	freed int64 // when it was last freed; for one never used, long enough ago
}

// newSlots counts the picks that need one.
func newSlots(picks []pick) int {
	n := 0
	for _, pk := range picks {
		if pk.slot == none {
			n++
		}
	}
	return n
}

// poolOf returns the pool to allocate from.
func (b *book) poolOf(w *wish) (*pool, error) {
	name := w.pool
	for _, addr := range w.addrs {
		if name != "" || !addr.IsValid() {
			continue
		}
		blk := b.blockOf(addr)
		if blk == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotInBlock, addr)
		}
		name = blk.Pool
	}
	if name == "" {
		name = DefaultPool
	}
	if p := b.pools[name]; p != nil {
		return p, nil
	}
	if len(b.pools) == 0 && name == DefaultPool {
		return nil, fmt.Errorf("%w: this host has no blocks", ErrExhausted)
	}
	return nil, fmt.Errorf("%w: this host has no block of pool %q%s", ErrUnknownPool, name, b.others())
}

// others tells the pools that there are.
func (b *book) others() string {
	names := make([]string, 0, len(b.pools))
	for name := range b.pools {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return ""
	}
	return "; it has blocks of " + strings.Join(names, ", ")
}

// choose finds an address for each family that the pool has, and for each that is wanted; one never used, unless it is
// wanted, only if fresh says so. It changes nothing that shows, and the next call overwrites what it returned.
func (b *book) choose(w *wish, now int64, fresh bool) ([]pick, error) {
	b.settle(now)
	p, err := b.poolOf(w)
	if err != nil {
		return nil, err
	}
	picks := b.picks[:0]
	for f := range p.stocks {
		s := &p.stocks[f]
		var pk pick
		switch {
		case !w.family.wants(f):
			continue
		case w.addrs[f].IsValid():
			if pk, err = b.want(w, p, w.addrs[f], now); err != nil {
				return nil, err
			}
		case s.empty():
			continue
		default:
			var ok bool
			if pk, ok = b.next(s, now, fresh); !ok {
				return nil, fmt.Errorf("%w in pool %s: %s", ErrExhausted, p.name, s.exhausted(familyName[f]))
			}
		}
		picks = append(picks, pk)
	}
	if len(picks) == 0 && w.family != AnyFamily {
		return nil, fmt.Errorf("%w: pool %s has no %s addresses on this host", ErrInvalidWish, p.name, w.family)
	}
	return picks, nil
}

// want says whether one particular address can be leased.
func (b *book) want(w *wish, p *pool, addr netip.Addr, now int64) (pick, error) {
	blk := b.blockOf(addr)
	switch {
	case blk == nil:
		return pick{}, fmt.Errorf("%w: %s%s", ErrNotInBlock, addr, w.inPool())
	case blk.Pool != p.name && w.pool == "":
		return pick{}, fmt.Errorf("%w: %s is in pool %q, the other address in %q", ErrInvalidWish, addr, blk.Pool, p.name)
	case blk.Pool != p.name:
		return pick{}, fmt.Errorf("%w: %s is in pool %q, not in %q", ErrNotInBlock, addr, blk.Pool, p.name)
	case blk.Draining:
		return pick{}, fmt.Errorf("%w: %s is in %s, which is draining", ErrNotInBlock, addr, blk.Prefix)
	case blk.reserved.contains(addr):
		return pick{}, fmt.Errorf("%w: %s is reserved", ErrAddressInUse, addr)
	case blk.inUse.contains(addr):
		return pick{}, fmt.Errorf("%w: %s is used by %s", ErrAddressInUse, addr, b.userOf(addr))
	case blk.doubtful[addr]:
		return pick{}, fmt.Errorf("%w: %s is fenced off, because it may be that of a damaged slot in the lease file", ErrAddressInUse, addr)
	}
	i, known := b.byAddr[addr]
	if !known {
		freed, rests := blk.restsSince(addr)
		if !rests {
			freed = now - b.quarantine
		}
		return pick{addr: addr, block: blk, slot: none, freed: freed}, nil
	}
	switch r := &b.records[i]; r.state {
	case leased:
		return pick{}, fmt.Errorf("%w: %s is held by %s", ErrAddressInUse, addr, r.held.key)
	case fenced:
		return pick{}, fmt.Errorf("%w: %s is fenced off, because its slot in the lease file is damaged", ErrAddressInUse, addr)
	default:
		return pick{addr: addr, block: blk, slot: i, freed: r.freed}, nil
	}
}

// next returns the address of a stock whose turn it is; see "Reuse" in the package comment.
func (b *book) next(s *stock, now int64, fresh bool) (pick, bool) {
	if fresh {
		if blk, addr := s.fresh(b.byAddr, false); blk != nil {
			return pick{addr: addr, block: blk, slot: none, freed: now - b.quarantine}, true
		}
	}
	var longest pick
	i := s.freed.head
	if i != none {
		r := &b.records[i]
		longest = pick{addr: r.addr, block: r.block, slot: i, freed: r.freed}
		if now-r.freed >= b.quarantine {
			return longest, true
		}
	}
	if fresh {
		if blk, addr := s.fresh(b.byAddr, true); blk != nil {
			return pick{addr: addr, block: blk, slot: none, freed: now - b.quarantine}, true
		}
		if pk, ok := s.rested(b.byAddr); ok && (i == none || earlier(pk.freed, pk.addr, longest.freed, longest.addr)) {
			return pk, true
		}
	}
	return longest, i != none
}
