package ipam

import (
	"net/netip"
	"slices"
	"time"
)

// model is the allocator as one would write it without caring for time, memory or crashes: lists that are searched.
type model struct {
	clock  *clock
	blocks []Block
	inUse  []InUse
	held   map[string][]netip.Addr
	freed  map[netip.Addr]time.Time // every address ever leased and not held
	left   map[netip.Addr]time.Time // every address that has left inUse since the last restart
}

func newModel(c *clock) *model {
	return &model{clock: c, held: map[string][]netip.Addr{}, freed: map[netip.Addr]time.Time{}, left: map[netip.Addr]time.Time{}}
}

func (m *model) taken(addr netip.Addr) bool {
	for _, addrs := range m.held {
		if slices.Contains(addrs, addr) {
			return true
		}
	}
	return false
}

func (m *model) used(addr netip.Addr) bool {
	return slices.ContainsFunc(m.inUse, func(u InUse) bool { return u.Prefix.Contains(addr) })
}

func (m *model) blockOf(addr netip.Addr) *Block {
	for i := range m.blocks {
		if m.blocks[i].Prefix.Contains(addr) {
			return &m.blocks[i]
		}
	}
	return nil
}

// rests returns when an address was freed, in one way or the other, unless it counts as never used.
func (m *model) rests(addr netip.Addr) (time.Time, bool) {
	at, freed := m.freed[addr]
	left, was := m.left[addr]
	switch {
	case freed && was && left.After(at):
		return left, true
	case freed:
		return at, true
	}
	return left, was && m.clock.now().Sub(left) < DefaultQuarantine
}

func reserves(b *Block, addr netip.Addr) bool {
	return slices.ContainsFunc(b.Reserved, func(r Range) bool { return r.Contains(addr) })
}

// next is the address of a family whose turn it is.
func (m *model) next(pool string, v4 bool) (netip.Addr, bool) {
	var best netip.Addr
	var bestAt time.Time
	for i := range m.blocks {
		b := &m.blocks[i]
		if b.Prefix.Addr().Is4() != v4 || b.Pool != pool || b.Draining {
			continue
		}
		for addr := b.Prefix.Addr(); b.Prefix.Contains(addr); addr = addr.Next() {
			at, was := m.rests(addr)
			switch {
			case m.taken(addr) || m.used(addr) || reserves(b, addr):
			case !was:
				return addr, true
			case !best.IsValid() || at.Before(bestAt) || at.Equal(bestAt) && addr.Less(best):
				best, bestAt = addr, at
			}
		}
	}
	return best, best.IsValid()
}

// pool is the one to allocate from.
func (m *model) pool(name string, wanted []netip.Addr) (string, error) {
	if name == "" {
		name = DefaultPool
		if len(wanted) > 0 {
			b := m.blockOf(wanted[0])
			if b == nil {
				return "", ErrNotInBlock
			}
			name = b.Pool
		}
	}
	switch {
	case slices.ContainsFunc(m.blocks, func(b Block) bool { return b.Pool == name }):
		return name, nil
	case len(m.blocks) == 0 && name == DefaultPool:
		return "", ErrExhausted
	}
	return "", ErrUnknownPool
}

// want says whether one particular address can be leased; free says that the caller did not name the pool.
func (m *model) want(pool string, addr netip.Addr, free bool) error {
	b := m.blockOf(addr)
	switch {
	case b == nil:
		return ErrNotInBlock
	case b.Pool != pool && free:
		return ErrInvalidWish
	case b.Pool != pool || b.Draining:
		return ErrNotInBlock
	case m.taken(addr) || m.used(addr) || reserves(b, addr):
		return ErrAddressInUse
	}
	return nil
}

// allocate takes wanted addresses with IPv4 first.
func (m *model) allocate(id, name string, wanted []netip.Addr) ([]netip.Addr, error) {
	if have := m.held[id]; have != nil {
		for _, w := range wanted {
			if !slices.Contains(have, w) {
				return nil, ErrMismatch
			}
		}
		for _, addr := range have {
			if b := m.blockOf(addr); b != nil && name != "" && b.Pool != name {
				return nil, ErrMismatch
			}
		}
		return have, nil
	}
	pool, err := m.pool(name, wanted)
	if err != nil {
		return nil, err
	}
	var got []netip.Addr
	for _, v4 := range []bool{true, false} {
		if i := slices.IndexFunc(wanted, func(a netip.Addr) bool { return a.Is4() == v4 }); i >= 0 {
			if err := m.want(pool, wanted[i], name == ""); err != nil {
				return nil, err
			}
			got = append(got, wanted[i])
		} else if slices.ContainsFunc(m.blocks, func(b Block) bool { return b.Pool == pool && b.Prefix.Addr().Is4() == v4 }) {
			addr, ok := m.next(pool, v4)
			if !ok {
				return nil, ErrExhausted
			}
			got = append(got, addr)
		}
	}
	for _, addr := range got {
		delete(m.freed, addr)
	}
	m.held[id] = got
	return got, nil
}

func (m *model) release(id string) {
	for _, addr := range m.held[id] {
		m.freed[addr] = m.clock.now()
	}
	delete(m.held, id)
}

func (m *model) setInUse(set []InUse) {
	for _, u := range m.inUse {
		for addr := u.Prefix.Addr(); u.Prefix.Contains(addr); addr = addr.Next() {
			if !slices.ContainsFunc(set, func(u InUse) bool { return u.Prefix.Contains(addr) }) {
				m.left[addr] = m.clock.now()
			}
		}
	}
	m.inUse = set
}

// restart forgets what is only in memory.
func (m *model) restart() { clear(m.left) }

func (m *model) reboot() {
	m.restart()
	for id := range m.held {
		m.release(id)
	}
}

// usage is where the addresses of a block are, by counting them.
type usage struct{ leased, quarantined, reserved, inUse, free, withheld int64 }

func (m *model) usage(b *Block) usage {
	var u usage
	now := m.clock.now()
	for addr := b.Prefix.Addr(); b.Prefix.Contains(addr); addr = addr.Next() {
		_, freed := m.freed[addr]
		at, was := m.rests(addr)
		resting := was && now.Sub(at) < DefaultQuarantine
		switch {
		case m.taken(addr):
			u.leased++
		case reserves(b, addr):
			u.reserved++
		case m.used(addr):
			u.inUse++
		case resting && freed:
			u.quarantined++
		case resting || b.Draining:
			u.withheld++
		default:
			u.free++
		}
	}
	return u
}
