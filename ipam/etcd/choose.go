package etcd

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// maxGrow is how many base blocks one Grow claims at most: what a host whose prefix is larger lacks comes one by one. With
// the comparisons it stays well under the operations that etcd takes in a transaction.
const maxGrow = 64

// niceCover is how many prefixes a host should announce of a pool as long as it has the choice.
const niceCover = 2

// layout is one family of a pool as a host sees it.
type layout struct {
	space []netip.Prefix // of the pool, minimal
	base  int
	own   []netip.Prefix // what the host has in the space
	alien []netip.Prefix // what others have claimed
}

// candidate is a choice of base blocks.
type candidate struct {
	blocks []netip.Prefix
	cover  int // prefixes that the host's blocks of this pool come to with them
}

// candidates returns what the host could claim, best first. pick chooses among n equally good places for a block that is
// no sibling.
func (l layout) candidates(pick func(n int) int) []candidate {
	var all, one, fresh []candidate
	own := ipam.Cover(l.own)
	for _, p := range own {
		s, ok := siblingOf(p)
		if !ok || s.Bits() > l.base || !within(s, l.space) || overlapsAny(s, l.alien) {
			continue
		}
		regions := slices.Collect(freeRegions(s, l.base, own))
		if len(regions) == 0 {
			continue
		}
		one = append(one, l.candidate(netip.PrefixFrom(regions[0].Addr(), l.base)))
		if n := blockCount(regions, l.base); n.IsInt64() && n.Int64() <= maxGrow {
			var blocks []netip.Prefix
			for _, r := range regions {
				blocks = slices.AppendSeq(blocks, baseBlocks(r, l.base))
			}
			all = append(all, l.candidate(blocks...))
		}
	}
	if places := l.places(); len(places) > 0 {
		fresh = append(fresh, l.candidate(places[pick(len(places))]))
	}
	sorted := slices.Concat(all, one, fresh)
	slices.SortStableFunc(sorted, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(a.crowded(), b.crowded()),
			cmp.Compare(len(a.blocks), len(b.blocks)),
			cmp.Compare(a.cover, b.cover),
		)
	})
	return sorted
}

// crowded is 0 for a cover of few enough prefixes, and 1.
func (c candidate) crowded() int {
	if c.cover <= niceCover {
		return 0
	}
	return 1
}

func (l layout) candidate(blocks ...netip.Prefix) candidate {
	return candidate{blocks, len(ipam.Cover(slices.Concat(l.own, blocks)))}
}

// places returns the equally good places for a block that is no sibling, best first: the starts of the largest free
// regions, in bit-reversal order. A pool in which nobody grows so fills 0, 1/2, 1/4, 3/4, 1/8, ..., and every host's
// sibling stays free for as long as can be.
func (l layout) places() []netip.Prefix {
	taken := ipam.Cover(slices.Concat(l.own, l.alien))
	var largest []region
	for _, p := range l.space {
		for r := range freeRegions(p, l.base, taken) {
			switch {
			case len(largest) > 0 && r.Bits() > largest[0].Bits():
				continue
			case len(largest) > 0 && r.Bits() < largest[0].Bits():
				largest = largest[:0]
			}
			largest = append(largest, region{r, p.Bits()})
		}
	}
	slices.SortStableFunc(largest, compareReversed)
	places := make([]netip.Prefix, len(largest))
	for i, r := range largest {
		places[i] = netip.PrefixFrom(r.Addr(), l.base)
	}
	return places
}

// region is a part of a prefix of a pool, whose length is outer.
type region struct {
	netip.Prefix
	outer int
}

// compareReversed orders regions of one length by their bit-reversed number in the prefix of the pool.
func compareReversed(a, b region) int {
	for i := a.Bits() - 1; i >= a.outer || i >= b.outer; i-- {
		var x, y byte
		if i >= a.outer {
			x = bit(a.Addr(), i)
		}
		if i >= b.outer {
			y = bit(b.Addr(), i)
		}
		if x != y {
			return cmp.Compare(x, y)
		}
	}
	return 0
}
