package ipam

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"testing"
)

func TestCover(t *testing.T) {
	for _, tc := range []struct{ in, want []string }{
		{nil, []string{}},
		{[]string{"10.0.0.0/26"}, []string{"10.0.0.0/26"}},
		{[]string{"10.0.0.64/26", "10.0.0.0/26"}, []string{"10.0.0.0/25"}},
		{[]string{"10.0.0.64/26", "10.0.0.128/26"}, []string{"10.0.0.64/26", "10.0.0.128/26"}}, // neighbours, not siblings
		{[]string{"10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/25"}, []string{"10.0.0.0/24"}},
		{[]string{"10.0.0.0/24", "10.0.0.0/26", "10.0.0.9/32"}, []string{"10.0.0.0/24"}},
		{[]string{"10.0.0.0/26", "10.0.0.0/26"}, []string{"10.0.0.0/26"}},
		{[]string{"10.0.0.7/26"}, []string{"10.0.0.0/26"}},
		{[]string{"0.0.0.0/1", "128.0.0.0/1"}, []string{"0.0.0.0/0"}},
		{[]string{"0.0.0.0/0", "::/0"}, []string{"0.0.0.0/0", "::/0"}},
		{[]string{"fd00:0:0:1::/64", "fd00::/64", "10.0.0.0/31", "10.0.0.2/31"}, []string{"10.0.0.0/30", "fd00::/63"}},
		{[]string{"0.0.0.0/8", "::/8"}, []string{"0.0.0.0/8", "::/8"}},
	} {
		var in []netip.Prefix
		for _, s := range tc.in {
			in = append(in, netip.MustParsePrefix(s))
		}
		if got := Cover(append(in, netip.Prefix{})); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("Cover(%v) = %v, want %v", tc.in, got, tc.want)
		}
	}
}

// FuzzCover takes prefixes inside a /24 and a /120, where a plain set of addresses says what is right.
func FuzzCover(f *testing.F) {
	f.Add([]byte{0, 26, 64, 26, 128, 25})
	f.Add([]byte{0, 24, 1, 32, 0x80 | 3, 31})
	f.Fuzz(func(t *testing.T, data []byte) {
		var blocks []netip.Prefix
		want := map[netip.Addr]bool{}
		for i := 0; i+1 < len(data) && i < 64; i += 2 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, data[i]}), 24+int(data[i+1]%9))
			if data[i+1]&0x80 != 0 {
				p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: data[i]}), 120+int(data[i+1]%9))
			}
			blocks = append(blocks, p)
			for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
				want[a] = true
			}
		}
		cover := Cover(blocks)
		got := map[netip.Addr]bool{}
		for i, p := range cover {
			if p != p.Masked() {
				t.Fatalf("%s has host bits", p)
			}
			n := 0
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				if got[a] || !want[a] {
					t.Fatalf("%v: %s twice or too much", cover, a)
				}
				got[a] = true
				n++
			}
			if size(p).Cmp(big.NewInt(int64(n))) != 0 {
				t.Fatalf("size of %s: %s, counted %d", p, size(p), n)
			}
			for _, q := range cover[:i] {
				if _, joins := join(q, p); joins {
					t.Fatalf("%v is not minimal: %s and %s join", cover, q, p)
				}
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%v covers %d of %d", cover, len(got), len(want))
		}
		if !slices.IsSortedFunc(cover, comparePrefix) {
			t.Fatalf("%v is not sorted", cover)
		}
		if again := Cover(cover); !slices.Equal(again, cover) {
			t.Fatalf("the cover of %v is %v", cover, again)
		}
		slices.Reverse(blocks)
		if other := Cover(append(blocks, blocks...)); !slices.Equal(other, cover) {
			t.Fatalf("%v covers %v in one order, %v in another", cover, blocks, other)
		}
	})
}
