package etcd

import (
	"iter"
	"math/big"
	"net/netip"
	"slices"
)

// bit returns the i-th bit of an address, counted from the most significant.
func bit(a netip.Addr, i int) byte {
	if a.Is4() {
		b := a.As4()
		return b[i/8] >> (7 - i%8) & 1
	}
	b := a.As16()
	return b[i/8] >> (7 - i%8) & 1
}

// flip returns the address that differs in the i-th bit only.
func flip(a netip.Addr, i int) netip.Addr {
	if a.Is4() {
		b := a.As4()
		b[i/8] ^= 1 << (7 - i%8)
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	b[i/8] ^= 1 << (7 - i%8)
	return netip.AddrFrom16(b)
}

// halves splits a prefix that is longer than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(flip(p.Addr(), p.Bits()), p.Bits()+1)
}

// siblingOf returns the prefix that p would merge with; a whole address space has none.
func siblingOf(p netip.Prefix) (netip.Prefix, bool) {
	if p.Bits() == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(flip(p.Addr(), p.Bits()-1), p.Bits()), true
}

// contains tells whether all of inner is in outer.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func within(inner netip.Prefix, outer []netip.Prefix) bool {
	return slices.ContainsFunc(outer, func(p netip.Prefix) bool { return contains(p, inner) })
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	return slices.ContainsFunc(others, p.Overlaps)
}

// freeRegions yields, by address, the maximal aligned parts of p that taken leaves free and that have at least one base block.
// taken is a cover (see ipam.Cover). It looks only where something is taken, however large p is.
func freeRegions(p netip.Prefix, base int, taken []netip.Prefix) iter.Seq[netip.Prefix] {
	var inside []netip.Prefix
	for _, t := range taken {
		if t.Overlaps(p) {
			inside = append(inside, t)
		}
	}
	return func(yield func(netip.Prefix) bool) { descend(p, base, inside, yield) }
}

// descend visits p; taken has only what overlaps p, sorted and disjoint.
func descend(p netip.Prefix, base int, taken []netip.Prefix, yield func(netip.Prefix) bool) bool {
	switch {
	case p.Bits() > base:
		return true
	case len(taken) == 0:
		return yield(p)
	case p.Bits() == base || contains(taken[0], p):
		return true
	}
	low, high := halves(p)
	i, _ := slices.BinarySearchFunc(taken, high.Addr(), func(t netip.Prefix, a netip.Addr) int { return t.Addr().Compare(a) })
	return descend(low, base, taken[:i], yield) && descend(high, base, taken[i:], yield)
}

// baseBlocks yields the blocks of base length in p, which may not be longer.
func baseBlocks(p netip.Prefix, base int) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) { descendAll(p, base, yield) }
}

func descendAll(p netip.Prefix, base int, yield func(netip.Prefix) bool) bool {
	if p.Bits() == base {
		return yield(p)
	}
	low, high := halves(p)
	return descendAll(low, base, yield) && descendAll(high, base, yield)
}

// blockCount returns how many base blocks the prefixes have together.
func blockCount(prefixes []netip.Prefix, base int) *big.Int {
	n := new(big.Int)
	for _, p := range prefixes {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), uint(base-p.Bits())))
	}
	return n
}
