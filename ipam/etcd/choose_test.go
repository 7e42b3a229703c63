package etcd

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"testing"

	"github.com/hostfabric/hostfabric/ipam"
)

func first(int) int { return 0 }

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func block(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)
}

// An ungrown pool fills in the order 0, N/2, N/4, 3N/4, ..., to its last block.
func TestPlacesAreInBitReversalOrder(t *testing.T) {
	for logN := range 8 {
		l := layout{space: []netip.Prefix{netip.PrefixFrom(block(0).Addr(), 32-logN)}, base: 32}
		for i := range 1 << logN {
			places := l.places()
			want := block(int(bits.Reverse8(uint8(i)) >> (8 - logN)))
			if len(places) == 0 || places[0] != want {
				t.Fatalf("number %d of %d: got %v, want %s first", i, 1<<logN, places, want)
			}
			l.alien = append(l.alien, places[0])
		}
		if places := l.places(); len(places) != 0 {
			t.Errorf("a full pool has %v", places)
		}
	}
}

func TestPlacesOverSeveralPrefixes(t *testing.T) {
	l := layout{space: ipam.Cover(prefixes("10.0.0.0/24", "10.0.4.0/23", "192.168.0.0/25")), base: 26}
	var got []netip.Prefix
	for {
		places := l.places()
		if len(places) == 0 {
			break
		}
		got = append(got, places[0])
		l.alien = append(l.alien, places[0])
	}
	want := prefixes("10.0.4.0/26", "10.0.0.0/26", "10.0.5.0/26", "192.168.0.0/26", "10.0.0.128/26", "10.0.4.128/26", "10.0.5.128/26",
		"10.0.0.64/26", "10.0.4.64/26", "192.168.0.64/26", "10.0.5.64/26", "10.0.0.192/26", "10.0.4.192/26", "10.0.5.192/26")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// In a pool of 2^32 blocks only the claims cost time.
func TestPlacesInAHugePool(t *testing.T) {
	l := layout{space: prefixes("fd00::/32"), base: 64}
	for i := range 300 {
		p := l.places()[0]
		want := bits.Reverse32(uint32(i))
		a := p.Addr().As16()
		if got := uint32(a[4])<<24 | uint32(a[5])<<16 | uint32(a[6])<<8 | uint32(a[7]); got != want || p.Bits() != 64 {
			t.Fatalf("number %d is %s, want block %d", i, p, want)
		}
		l.alien = append(l.alien, p)
	}
	if n := blockCount(l.space, l.base).Int64(); n != 1<<32 {
		t.Errorf("%d blocks", n)
	}
}

// Alone in its pool a host grows through these numbers of blocks, with never more than two prefixes.
func TestGrowthSteps(t *testing.T) {
	for _, tc := range []struct {
		pool string
		base int
	}{{"10.0.0.0/16", 26}, {"fd00::/32", 64}} {
		l := layout{space: prefixes(tc.pool), base: tc.base}
		var got []int
		for len(l.own) < 64 {
			c := l.candidates(first)[0]
			l.own = append(l.own, c.blocks...)
			got = append(got, len(l.own))
			if n := len(ipam.Cover(l.own)); n > 2 || n != c.cover {
				t.Fatalf("%d blocks in %d prefixes, said to be %d", len(l.own), n, c.cover)
			}
		}
		want := []int{1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 17, 18, 20, 24, 32, 33, 34, 36, 40, 48, 64}
		if !slices.Equal(got, want) {
			t.Errorf("%s: grew %v, want %v", tc.pool, got, want)
		}
	}
}

func TestGrowthOfMuch(t *testing.T) {
	own := prefixes("10.0.0.0/19") // 128 blocks: its sibling is more than one transaction should have
	l := layout{space: prefixes("10.0.0.0/16"), base: 26, own: own}
	for _, c := range l.candidates(first) {
		if len(c.blocks) > maxGrow {
			t.Errorf("%d blocks at once", len(c.blocks))
		}
	}
	if c := l.candidates(first)[0]; fmt.Sprint(c.blocks) != "[10.0.32.0/26]" {
		t.Errorf("got %v", c)
	}
}

func TestGrowthAmongOthers(t *testing.T) {
	for _, tc := range []struct {
		name       string
		own, alien []string
		want       string
	}{
		{"sibling is free", []string{"10.0.0.0/26"}, nil, "[10.0.0.64/26]"},
		{"sibling is taken", []string{"10.0.0.0/26"}, []string{"10.0.0.64/26"}, "[10.0.0.128/26]"},
		{"sibling is taken in part", []string{"10.0.0.0/25"}, []string{"10.0.0.192/26"}, "[10.0.0.128/26]"},
		{"half of the sibling is had", []string{"10.0.0.0/25", "10.0.0.128/26"}, nil, "[10.0.0.192/26]"},
		{"less than a base block is had", []string{"10.0.0.0/27"}, nil, "[10.0.0.128/26]"},
		{"other pools do not count", []string{"10.0.0.64/26", "172.16.0.0/26", "fd00::/64"}, nil, "[10.0.0.0/26]"},
		{"the second has a sibling left", []string{"10.0.0.0/26", "10.0.0.128/26"}, []string{"10.0.0.64/26"}, "[10.0.0.192/26]"},
	} {
		l := layout{space: prefixes("10.0.0.0/24"), base: 26, alien: prefixes(tc.alien...)}
		for _, p := range prefixes(tc.own...) {
			if overlapsAny(p, l.space) {
				l.own = append(l.own, p)
			}
		}
		if got := fmt.Sprint(l.candidates(first)[0].blocks); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Every pool of 8 blocks, each of which is free, this host's or another's.
func TestCandidatesExhaustively(t *testing.T) {
	const n = 8
	l := layout{space: []netip.Prefix{netip.PrefixFrom(block(0).Addr(), 29)}, base: 32}
	for state := range 6561 { // 3^8
		l.own, l.alien = nil, nil
		var taken [n]bool
		for i, rest := 0, state; i < n; i, rest = i+1, rest/3 {
			switch rest % 3 {
			case 1:
				l.own = append(l.own, block(i))
			case 2:
				l.alien = append(l.alien, block(i))
			}
			taken[i] = rest%3 != 0
		}
		if err := l.check(taken[:]); err != nil {
			t.Fatalf("own %v, alien %v: %v", l.own, l.alien, err)
		}
	}
}

// check compares with what can be seen block by block, of a pool whose n-th block is block(n).
func (l layout) check(taken []bool) error {
	longest, reversed := 0, 0 // of the free aligned runs
	for length := len(taken); length > 0 && longest == 0; length /= 2 {
		for at := 0; at < len(taken); at += length {
			if !slices.Contains(taken[at:at+length], true) {
				width := bits.Len(uint(len(taken)/length)) - 1
				r := int(bits.Reverse64(uint64(at/length)) >> (64 - width))
				if longest == 0 || r < reversed {
					longest, reversed = length, r
				}
			}
		}
	}
	places := l.places()
	if (longest == 0) != (len(places) == 0) {
		return fmt.Errorf("longest free run is %d, places %v", longest, places)
	}
	if longest > 0 {
		width := bits.Len(uint(len(taken)/longest)) - 1
		want := block(int(bits.Reverse64(uint64(reversed))>>(64-width)) * longest)
		if places[0] != want {
			return fmt.Errorf("places %v, want %s first", places, want)
		}
	}
	candidates := l.candidates(first)
	if (len(candidates) == 0) != (longest == 0) {
		return fmt.Errorf("candidates %v", candidates)
	}
	for i, c := range candidates {
		seen := map[netip.Prefix]bool{}
		for _, b := range c.blocks {
			last := int(b.Addr().As4()[3])
			if b != block(last) || last >= len(taken) || taken[last] || seen[b] {
				return fmt.Errorf("%s of %v is not free", b, c)
			}
			seen[b] = true
		}
		cover := len(ipam.Cover(slices.Concat(l.own, c.blocks)))
		if cover != c.cover || len(c.blocks) == 0 {
			return fmt.Errorf("%v comes to %d prefixes", c, cover)
		}
		if i == 0 {
			continue
		}
		last := candidates[i-1]
		a, b := []int{last.crowded(), len(last.blocks), last.cover}, []int{c.crowded(), len(c.blocks), c.cover}
		if slices.Compare(a, b) > 0 {
			return fmt.Errorf("%v comes before %v", last, c)
		}
	}
	return nil
}

// FuzzPlacement lets hosts grow in a pool of 256 blocks in any order, with any choice among equal places.
func FuzzPlacement(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 0, 0, 0, 1})
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const n = 256
		hosts := map[byte][]netip.Prefix{}
		var taken [n]bool
		for _, d := range data[:min(len(data), 2*n)] {
			l := layout{space: []netip.Prefix{netip.PrefixFrom(block(0).Addr(), 24)}, base: 32, own: hosts[d%16]}
			for h, blocks := range hosts {
				if h != d%16 {
					l.alien = append(l.alien, blocks...)
				}
			}
			if err := l.check(taken[:]); err != nil {
				t.Fatal(err)
			}
			candidates := l.candidates(func(n int) int { return int(d/16) % n })
			if len(candidates) == 0 {
				if slices.Contains(taken[:], false) {
					t.Fatal("nothing to claim in a pool that is not full")
				}
				return
			}
			for _, b := range candidates[0].blocks {
				i := b.Addr().As4()[3]
				if taken[i] {
					t.Fatalf("%s is claimed twice", b)
				}
				taken[i] = true
			}
			hosts[d%16] = append(hosts[d%16], candidates[0].blocks...)
		}
	})
}

// FuzzKey reads the names of claims, which anybody may have written.
func FuzzKey(f *testing.F) {
	k := keys{DefaultPrefix}
	f.Add(k.claim("default", netip.MustParsePrefix("10.64.0.0/26")))
	f.Add(k.claim("a.b", netip.MustParsePrefix("fd00::/64")))
	f.Add(k.claims() + "a/ipv4/10.0.0.0-026")
	f.Add(k.claims() + "a/ipv6/::ffff:10.0.0.0-128")
	f.Fuzz(func(t *testing.T, key string) {
		pool, p, err := k.parse(key)
		if err == nil && (k.claim(pool, p) != key || p != p.Masked()) {
			t.Errorf("%q is read as %s of %s", key, p, pool)
		}
	})
}

func TestMerge(t *testing.T) {
	there := registry{
		"default": {Prefixes: prefixes("10.64.0.0/12", "fd00::/32"), BaseIPv4: 26, BaseIPv6: 64},
		"web":     {Prefixes: prefixes("10.0.0.0/16"), BaseIPv4: 27},
	}
	for _, tc := range []struct {
		pool    ipam.Pool
		want    string // prefixes of the pool afterwards; empty: a conflict
		changed bool
	}{
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/12", "fd00::/32"), BaseIPv4: 26, BaseIPv6: 64}, "[10.64.0.0/12 fd00::/32]", false},
		{ipam.Pool{Name: "default", Prefixes: prefixes("fd00::/32"), BaseIPv6: 64}, "[10.64.0.0/12 fd00::/32]", false},
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.80.0.0/16"), BaseIPv4: 26}, "[10.64.0.0/12 10.80.0.0/16 fd00::/32]", true},
		{ipam.Pool{Name: "web", Prefixes: prefixes("fd01::/48"), BaseIPv6: 60}, "[10.0.0.0/16 fd01::/48]", true},
		{ipam.Pool{Name: "new", Prefixes: prefixes("10.1.0.0/16"), BaseIPv4: 24}, "[10.1.0.0/16]", true},
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/12"), BaseIPv4: 25}, "", false},
		{ipam.Pool{Name: "default", Prefixes: prefixes("fd00::/32"), BaseIPv6: 72}, "", false},
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/13"), BaseIPv4: 26}, "", false},
		{ipam.Pool{Name: "default", Prefixes: prefixes("10.0.128.0/17"), BaseIPv4: 26}, "", false},
		{ipam.Pool{Name: "new", Prefixes: prefixes("10.0.0.0/8"), BaseIPv4: 26}, "", false},
	} {
		next, changed, err := there.merge(tc.pool)
		if tc.want == "" {
			if !errors.Is(err, ErrConflict) {
				t.Errorf("%v: got %v", tc.pool, err)
			}
			continue
		}
		if err != nil || changed != tc.changed || fmt.Sprint(next[tc.pool.Name].Prefixes) != tc.want {
			t.Errorf("%v: got %v, %v, %v", tc.pool, next[tc.pool.Name], changed, err)
		}
		again, err := decodeRegistry("k", []byte(next.encode()))
		if err != nil || again.encode() != next.encode() {
			t.Errorf("%s is read as %v, %v", next.encode(), again, err)
		}
	}
	if len(there) != 2 || len(there["default"].Prefixes) != 2 {
		t.Errorf("merge changed what it was given: %v", there)
	}
}
