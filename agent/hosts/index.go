package hosts

import "net/netip"

// index finds who has an address, by the longest prefix. It is not safe for concurrent use.
type index[O any] struct {
	owners map[netip.Prefix]O
	// lengths counts prefixes by family and length: only those that there are need be tried.
	lengths [2][129]int
}

func newIndex[O any]() *index[O] { return &index[O]{owners: map[netip.Prefix]O{}} }

func (x *index[O]) set(p netip.Prefix, owner O) {
	if _, known := x.owners[p]; !known {
		x.lengths[family(p.Addr())][p.Bits()]++
	}
	x.owners[p] = owner
}

func (x *index[O]) remove(p netip.Prefix) {
	if _, known := x.owners[p]; known {
		x.lengths[family(p.Addr())][p.Bits()]--
		delete(x.owners, p)
	}
}

func (x *index[O]) find(addr netip.Addr) (owner O, ok bool) {
	counts := &x.lengths[family(addr)]
	for bits := addr.BitLen(); bits >= 0; bits-- {
		if counts[bits] == 0 {
			continue
		}
		p, err := addr.Prefix(bits)
		if err != nil {
			continue // the address has a zone, which no prefix has
		}
		if owner, ok := x.owners[p]; ok {
			return owner, true
		}
	}
	return owner, false
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}
