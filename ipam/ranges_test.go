package ipam

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	for _, tc := range []struct{ in, first, last, out string }{
		{"10.1.0.7", "10.1.0.7", "10.1.0.7", "10.1.0.7"},
		{"10.1.0.7/32", "10.1.0.7", "10.1.0.7", "10.1.0.7"},
		{"10.1.0.0/24", "10.1.0.0", "10.1.0.255", "10.1.0.0/24"},
		{"10.1.0.0-10.1.0.255", "10.1.0.0", "10.1.0.255", "10.1.0.0/24"},
		{"10.1.0.1-10.1.0.255", "10.1.0.1", "10.1.0.255", "10.1.0.1-10.1.0.255"},
		{"10.1.0.0-10.1.0.2", "10.1.0.0", "10.1.0.2", "10.1.0.0-10.1.0.2"},
		{"10.1.0.1-10.1.0.2", "10.1.0.1", "10.1.0.2", "10.1.0.1-10.1.0.2"},
		{"0.0.0.0-255.255.255.255", "0.0.0.0", "255.255.255.255", "0.0.0.0/0"},
		{"::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"},
		{"fd00::-fd00::ffff:ffff:ffff:ffff", "fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::/64"},
		{"FD00::0", "fd00::", "fd00::", "fd00::"},
	} {
		r, err := ParseRange(tc.in)
		if err != nil || r.First.String() != tc.first || r.Last.String() != tc.last || r.String() != tc.out {
			t.Errorf("%s: %s to %s, written %s, %v", tc.in, r.First, r.Last, r, err)
		}
	}
	for in, text := range map[string]string{
		"": "want an address", "x": "want an address", "10.1.0.0/": "want an address", "10.1.0.0/33": "want an address",
		"10.1.0.1/24": "did you mean 10.1.0.0/24", "10.1.0.2-10.1.0.1": "ends before it begins", "10.1.0.1-fd00::1": "two families",
		"10.1.0.1-": "not an address", "-10.1.0.1": "not an address", "10.1.0.1-x": `"x" is not an address`,
		"fe80::1%eth0": "want an address", "fe80::1%a-fe80::2%a": "zone", "::ffff:10.1.0.1": "want an address",
		"::ffff:10.1.0.0/120": "want an address", "10.1.0.1 - 10.1.0.2": "not an address", "10.1.0.0/24-10.2.0.0/24": "not an address",
	} {
		if r, err := ParseRange(in); err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), fmt.Sprintf("%q", in)) {
			t.Errorf("%q: %v, %v, want an error with %q", in, r, err, text)
		}
	}
}

func TestRangeOfNothing(t *testing.T) {
	r := RangeOf(netip.Prefix{})
	if r != (Range{}) || r.Contains(netip.Addr{}) || r.Contains(netip.MustParseAddr("::")) {
		t.Errorf("%v", r)
	}
	if c, ok := RangeOf(netip.MustParsePrefix("10.0.0.0/8")).Clip(netip.Prefix{}); ok {
		t.Errorf("clipped to nothing: %v", c)
	}
	if RangeOf(netip.MustParsePrefix("fd00::/64")).Contains(netip.MustParseAddr("fd00::1%eth0")) {
		t.Error("an address with a zone is in a block")
	}
}

// FuzzRange: what is written is read back as the same, and a clip is what both have, counted address by address.
func FuzzRange(f *testing.F) {
	f.Add(uint64(0), uint64(5), uint16(9), uint8(61), false, "10.0.0.1-10.0.0.9")
	f.Add(^uint64(0), ^uint64(0)-7, uint16(7), uint8(3), true, "fd00::/64")
	f.Add(uint64(0xfd)<<56, uint64(0), uint16(255), uint8(8), true, "10.0.0.9")
	f.Fuzz(func(t *testing.T, hi, lo uint64, more uint16, bits uint8, six bool, text string) {
		if r, err := ParseRange(text); err == nil {
			again, err := ParseRange(r.String())
			if err != nil || again != r || r.check() != nil {
				t.Fatalf("%q is read as %s, and that as %s, %v", text, r, again, err)
			}
		}
		first := fuzzAddr(hi, lo, six)
		last := fuzzAddr(hi, lo+uint64(more%512), six)
		r := Range{first, last}
		if r.check() != nil {
			return // beyond the end, or mapped
		}
		again, err := ParseRange(r.String())
		if err != nil || again != r {
			t.Fatalf("%v-%v is written %s, and read as %v, %v", first, last, r, again, err)
		}
		if want := big.NewInt(int64(more%512) + 1); r.size().Cmp(want) != 0 {
			t.Fatalf("size of %s is %s, want %s", r, r.size(), want)
		}
		p := netip.PrefixFrom(first.Next(), first.BitLen()-int(bits)%min(first.BitLen(), 64))
		if !p.IsValid() {
			return
		}
		clip, ok := r.Clip(p)
		n := 0
		for addr := first; r.Contains(addr); addr = addr.Next() {
			in := p.Contains(addr)
			if in != (ok && clip.Contains(addr)) {
				t.Fatalf("%s clipped to %s is %v, %v: wrong about %s", r, p, clip, ok, addr)
			}
			if whole := RangeOf(p); whole.Contains(addr) != in {
				t.Fatalf("%s is %s: wrong about %s", p, whole, addr)
			}
			if in {
				n++
			}
		}
		if ok && clip.size().Cmp(big.NewInt(int64(n))) != 0 || !ok && n > 0 {
			t.Fatalf("%s clipped to %s is %v: %d addresses", r, p, clip, n)
		}
	})
}

func fuzzAddr(hi, lo uint64, six bool) netip.Addr {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:], hi)
	binary.BigEndian.PutUint64(raw[8:], lo)
	if six {
		return netip.AddrFrom16(raw)
	}
	return netip.AddrFrom4([4]byte(raw[12:]))
}

// FuzzRanges holds sets of ranges against plain sets of the addresses of a /24.
func FuzzRanges(f *testing.F) {
	f.Add([]byte{1, 5, 4, 9, 20, 0}, []byte{3, 1, 0, 255})
	f.Add([]byte{0, 255}, []byte{0, 0, 255, 0})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		one, inOne := fuzzRanges(x)
		two, inTwo := fuzzRanges(y)
		left, within := one.minus(two), one.clip(netip.MustParsePrefix("10.0.0.64/26"))
		for name, set := range map[string]ranges{"union": one, "minus": left, "clip": within} {
			for i, r := range set {
				if r.check() != nil || i > 0 && !set[i-1].Last.Less(r.First) {
					t.Fatalf("%s: %v is not in order", name, set)
				}
			}
		}
		n := 0
		for i := range 256 {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if inOne[i] {
				n++
			}
			if one.contains(addr) != inOne[i] || left.contains(addr) != (inOne[i] && !inTwo[i]) || within.contains(addr) != (inOne[i] && i/64 == 1) {
				t.Fatalf("%v and %v: wrong about %s: minus %v, clip %v", one, two, addr, left, within)
			}
		}
		if one.size().Cmp(big.NewInt(int64(n))) != 0 {
			t.Fatalf("%v: size %s, want %d", one, one.size(), n)
		}
	})
}

// fuzzRanges takes pairs of a first byte and how many follow.
func fuzzRanges(data []byte) (ranges, [256]bool) {
	var in [256]bool
	var rs []Range
	for i := 0; i+1 < len(data) && i < 32; i += 2 {
		first, last := int(data[i]), min(255, int(data[i])+int(data[i+1]%64))
		rs = append(rs, Range{netip.AddrFrom4([4]byte{10, 0, 0, byte(first)}), netip.AddrFrom4([4]byte{10, 0, 0, byte(last)})})
		for ; first <= last; first++ {
			in[first] = true
		}
	}
	return union(rs...), in
}
