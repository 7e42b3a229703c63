package blocks

import (
	"math/big"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

func prefixesOf(bs []owned) []netip.Prefix {
	ps := make([]netip.Prefix, len(bs))
	for i, b := range bs {
		ps[i] = b.Prefix
	}
	return ps
}

func prefixesIn(r ipam.Record) []netip.Prefix {
	ps := make([]netip.Prefix, len(r.Blocks))
	for i, b := range r.Blocks {
		ps[i] = b.Prefix
	}
	return ps
}

// usedOf are the recorded blocks from which something may have been leased.
func usedOf(r ipam.Record) []netip.Prefix {
	var ps []netip.Prefix
	for _, b := range r.Blocks {
		if !b.Opening && !b.Lost {
			ps = append(ps, b.Prefix)
		}
	}
	return ps
}

func overlaps(set []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(set, p.Overlaps)
}

// contains says whether the set together has all addresses of p.
func contains(set []netip.Prefix, p netip.Prefix) bool { return len(subtract(p, set)) == 0 }

// within says that p is a part of another prefix, and not all of it.
func within(p, larger netip.Prefix) bool { return larger.Bits() < p.Bits() && larger.Overlaps(p) }

func without(set []netip.Prefix, p netip.Prefix) []netip.Prefix { return minus(set, []netip.Prefix{p}) }

// minus is what is in one set and not in the other.
func minus(a, b []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(a), func(p netip.Prefix) bool { return slices.Contains(b, p) })
}

// union is all that is in either.
func union(a, b []netip.Prefix) []netip.Prefix {
	set := slices.Concat(a, b)
	slices.SortFunc(set, netip.Prefix.Compare)
	return slices.Compact(set)
}

// subtract returns what of p is in none of the set.
func subtract(p netip.Prefix, set []netip.Prefix) []netip.Prefix {
	i := slices.IndexFunc(set, p.Overlaps)
	switch {
	case i < 0:
		return []netip.Prefix{p}
	case slices.ContainsFunc(set, func(q netip.Prefix) bool { return q.Overlaps(p) && q.Bits() <= p.Bits() }):
		return nil
	}
	low, high := halves(p)
	return append(subtract(low, set), subtract(high, set)...)
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	low = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	last := p.Addr().AsSlice()
	last[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(last)
	return low, netip.PrefixFrom(addr, p.Bits()+1)
}

// sibling is the other half of the prefix that is one bit shorter.
func sibling(p netip.Prefix) (netip.Prefix, bool) {
	if p.Bits() == 0 {
		return netip.Prefix{}, false
	}
	low, high := halves(netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked())
	if p == low {
		return high, true
	}
	return low, true
}

func size(p netip.Prefix) *big.Int {
	return new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}
