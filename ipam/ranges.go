package ipam

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// Range is the addresses from First to Last, both included and of one family.
type Range struct{ First, Last netip.Addr }

// RangeOf returns the addresses of a prefix; host bits are ignored. An invalid prefix has none: the zero Range.
func RangeOf(p netip.Prefix) Range {
	if !p.IsValid() {
		return Range{}
	}
	first := p.Masked().Addr()
	raw := first.AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw) // as long as it was
	return Range{First: first, Last: last}
}

// ParseRange reads what String writes: an address, a prefix without host bits, or FIRST-LAST.
func ParseRange(s string) (Range, error) {
	if first, last, ok := strings.Cut(s, "-"); ok {
		r, err := parseEnds(first, last)
		if err != nil {
			return Range{}, fmt.Errorf("range %q: %w", s, err)
		}
		return r, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || p.Addr().Is4In6():
			return Range{}, fmt.Errorf("range %q: want an address, a prefix or FIRST-LAST", s)
		case p != p.Masked():
			return Range{}, fmt.Errorf("range %q has host bits set: did you mean %s?", s, p.Masked())
		}
		return RangeOf(p), nil
	}
	r, err := parseEnds(s, s)
	if err != nil {
		return Range{}, fmt.Errorf("range %q: want an address, a prefix or FIRST-LAST", s)
	}
	return r, nil
}

func parseEnds(first, last string) (Range, error) {
	var r Range
	var err error
	if r.First, err = netip.ParseAddr(first); err != nil {
		return Range{}, fmt.Errorf("%q is not an address", first)
	}
	if r.Last, err = netip.ParseAddr(last); err != nil {
		return Range{}, fmt.Errorf("%q is not an address", last)
	}
	return r, r.check()
}

// check reports a range that has no addresses, or none that a block could have.
func (r Range) check() error {
	switch {
	case !r.First.IsValid() || !r.Last.IsValid():
		return errors.New("an end is missing")
	case r.First.Zone() != "" || r.Last.Zone() != "":
		return errors.New("addresses with a zone are not of a block")
	case r.First.Is4In6() || r.Last.Is4In6():
		return errors.New("write IPv4 addresses as such")
	case r.First.Is4() != r.Last.Is4():
		return errors.New("its ends are of two families")
	case r.Last.Less(r.First):
		return errors.New("it ends before it begins")
	}
	return nil
}

// Contains says whether addr is in the range.
func (r Range) Contains(addr netip.Addr) bool {
	return addr.IsValid() && addr.Zone() == "" && !addr.Less(r.First) && !r.Last.Less(addr)
}

// Clip returns the part of the range that is in p, if there is any.
func (r Range) Clip(p netip.Prefix) (Range, bool) {
	return r.intersect(RangeOf(p))
}

func (r Range) intersect(o Range) (Range, bool) {
	if r.First.Less(o.First) {
		r.First = o.First
	}
	if o.Last.Less(r.Last) {
		r.Last = o.Last
	}
	return r, r.check() == nil
}

// String returns the address if it is one, the prefix if it is one, and else FIRST-LAST.
func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	if p, ok := r.prefix(); ok {
		return p.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

func (r Range) prefix() (netip.Prefix, bool) {
	if r.check() != nil {
		return netip.Prefix{}, false
	}
	// The longest prefix that begins here and does not end earlier is the only one it can be.
	bits := sort.Search(r.First.BitLen(), func(n int) bool {
		return RangeOf(netip.PrefixFrom(r.First, n+1)).Last.Less(r.Last)
	})
	p := netip.PrefixFrom(r.First, bits)
	return p, RangeOf(p) == r
}

// size returns how many addresses a range has.
func (r Range) size() *big.Int {
	first, last := new(big.Int).SetBytes(r.First.AsSlice()), new(big.Int).SetBytes(r.Last.AsSlice())
	return last.Add(last.Sub(last, first), big.NewInt(1))
}

// ranges is a set of addresses, as ranges that are sorted and apart.
type ranges []Range

// union returns the set of all addresses in rs, in any order and overlapping as they may.
func union(rs ...Range) ranges {
	sorted := slices.Clone(rs)
	slices.SortFunc(sorted, func(x, y Range) int { return x.First.Compare(y.First) })
	var set ranges
	for _, r := range sorted {
		if n := len(set); n > 0 && !set[n-1].Last.Less(r.First) {
			if set[n-1].Last.Less(r.Last) {
				set[n-1].Last = r.Last
			}
			continue
		}
		set = append(set, r)
	}
	return set
}

// minus returns the addresses of the set that are not in o.
func (set ranges) minus(o ranges) ranges {
	var left ranges
	for _, r := range set {
		for len(o) > 0 && o[0].Last.Less(r.First) {
			o = o[1:]
		}
		whole := true
		for _, cut := range o {
			if r.Last.Less(cut.First) {
				break
			}
			if r.First.Less(cut.First) {
				left = append(left, Range{r.First, cut.First.Prev()})
			}
			if !cut.Last.Less(r.Last) {
				whole = false
				break
			}
			r.First = cut.Last.Next()
		}
		if whole {
			left = append(left, r)
		}
	}
	return left
}

// clip returns the addresses of the set that are in p.
func (set ranges) clip(p netip.Prefix) ranges {
	var in ranges
	for _, r := range set {
		if c, ok := r.Clip(p); ok {
			in = append(in, c)
		}
	}
	return in
}

// find returns the range that contains addr.
func (set ranges) find(addr netip.Addr) (Range, bool) {
	if len(set) == 0 {
		return Range{}, false
	}
	i := sort.Search(len(set), func(i int) bool { return !set[i].Last.Less(addr) })
	if i < len(set) && !addr.Less(set[i].First) {
		return set[i], true
	}
	return Range{}, false
}

func (set ranges) contains(addr netip.Addr) bool {
	_, in := set.find(addr)
	return in
}

func (set ranges) size() *big.Int {
	n := new(big.Int)
	for _, r := range set {
		n.Add(n, r.size())
	}
	return n
}
