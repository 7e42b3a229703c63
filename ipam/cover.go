package ipam

import (
	"math/big"
	"net/netip"
	"slices"
)

// Cover returns the fewest prefixes that contain exactly the addresses of blocks, IPv4 first, then by address. Host
// bits are ignored, as are invalid prefixes.
func Cover(blocks []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(blocks))
	for _, p := range blocks {
		if p.IsValid() {
			sorted = append(sorted, p.Masked())
		}
	}
	slices.SortFunc(sorted, comparePrefix)

	var cover []netip.Prefix
	for _, p := range sorted {
		if n := len(cover); n > 0 && cover[n-1].Contains(p.Addr()) {
			continue
		}
		cover = append(cover, p)
		for n := len(cover); n > 1; n = len(cover) {
			parent, ok := join(cover[n-2], cover[n-1])
			if !ok {
				break
			}
			cover = append(cover[:n-2], parent)
		}
	}
	return cover
}

// join returns the prefix whose two halves are low and high.
func join(low, high netip.Prefix) (netip.Prefix, bool) {
	if low.Bits() != high.Bits() || low.Bits() == 0 || low.Addr().Is4() != high.Addr().Is4() {
		return netip.Prefix{}, false
	}
	parent := netip.PrefixFrom(low.Addr(), low.Bits()-1).Masked()
	return parent, low != high && parent.Addr() == low.Addr() && parent.Contains(high.Addr())
}

// comparePrefix orders by family, address and length, so that a prefix comes right before those inside it.
func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// size returns how many addresses a prefix has.
func size(p netip.Prefix) *big.Int {
	return new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
}
