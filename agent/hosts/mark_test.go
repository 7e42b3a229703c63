package hosts

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/hostfabric/hostfabric/bgp"
)

func pfx(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

const admin = 4200000176

// TestHash fixes what hosts of all versions have to agree on: `printf r1h1 | sha256sum` begins like this.
func TestHash(t *testing.T) {
	if got := Hash("R1H1"); got != 0x9052c1ce {
		t.Errorf("%#x", got)
	}
}

// TestMarks: what a host's prefix carries, and what another host makes of it.
func TestMarks(t *testing.T) {
	h := Hash("r1h1")
	for _, tc := range []struct {
		prefix string
		own    []netip.Addr
		want   string // functions and parameters after the first
	}{
		{"10.64.0.0/26", addrs("10.64.0.0"), "2026:0"},
		{"10.64.0.0/26", addrs("10.64.0.64"), ""},       // the host's address is elsewhere
		{"10.64.0.0/25", addrs("10.64.0.64"), "2026:1"}, // it has grown
		{"10.64.0.0/24", addrs("10.64.0.192", "fd00::"), "2026:3"},
		{"10.64.0.0/26", addrs("10.64.0.5"), "2032:5"},
		{"10.64.0.7/32", addrs("10.64.0.7"), "2032:0"},
		{"fd00:64:0:1::/64", addrs("10.64.0.0", "fd00:64:0:1::"), "2064:0"},
		{"fd00:64::/62", addrs("fd00:64:0:3::"), "2064:3"},
		{"fd00:64::/120", addrs("fd00:64::80"), "2121:1"},
		{"fd00:64::/48", addrs("fd00:64:0:ffff::"), "2064:65535"},
		{"fd00:64::/64", addrs("fd00:64::ffff"), ""}, // so far inside that no parameter can say where
		{"10.64.0.0/26", nil, ""},
	} {
		prefix := pfx(tc.prefix)
		marks := Marks(admin, "r1h1", prefix, tc.own)
		want := fmt.Sprintf("[{%d 1 %d}]", uint32(admin), h)
		text := ""
		for _, m := range marks[1:] {
			text += fmt.Sprintf("%d:%d", m.Local1, m.Local2)
		}
		if got := fmt.Sprint(marks[:1]); got != want || text != tc.want {
			t.Errorf("%s of %v is marked %v, want %s and %q", prefix, tc.own, marks, want, tc.want)
		}
		m := read(prefix, marks)
		var servers []netip.Addr
		if tc.want != "" {
			for _, a := range tc.own {
				if prefix.Contains(a) {
					servers = append(servers, a)
				}
			}
		}
		if len(m.hashes) != 1 || m.hashes[0] != h || fmt.Sprint(m.servers) != fmt.Sprint(servers) {
			t.Errorf("%s with %v is read as %+v, want servers %v", prefix, marks, m, servers)
		}
	}
}

// TestStrangeMarks: whoever marks a prefix names servers inside it, or none.
func TestStrangeMarks(t *testing.T) {
	for _, tc := range []struct {
		prefix      string
		function, i uint32
	}{
		{"0.0.0.0/0", 2008, 10}, {"::/0", 2032, 1}, // a default route is nobody's
		{"10.64.0.0/26", 2025, 0}, {"10.64.0.0/26", 2033, 0}, {"10.64.0.0/26", 2027, 2}, {"10.64.0.0/26", 2032, 64},
		{"10.64.0.0/26", 0, 0}, {"10.64.0.0/26", 2, 0}, {"10.64.0.0/26", 1 << 31, 0}, {"10.64.0.0/26", 1<<32 - 1, 1<<32 - 1},
		{"fd00::/64", 2097, 0}, {"fd00::/64", 2064, 1}, {"fd00::/127", 2129, 0},
	} {
		if m := read(pfx(tc.prefix), []bgp.LargeCommunity{{Global: admin, Local1: tc.function, Local2: tc.i}}); len(m.servers) > 0 {
			t.Errorf("%s with %d:%d has servers %v", tc.prefix, tc.function, tc.i, m.servers)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(uint32(0x0a400000), 26, uint32(2027), uint32(1))
	f.Add(uint32(0xfd000000), 64, uint32(2096), uint32(1<<32-1))
	f.Fuzz(func(t *testing.T, high uint32, bits int, function, i uint32) {
		four := [4]byte{byte(high >> 24), byte(high >> 16), byte(high >> 8), byte(high)}
		base := netip.AddrFrom4(four)
		if bits > 32 {
			base = netip.AddrFrom16([16]byte{four[0], four[1], four[2], four[3]})
		}
		prefix, err := base.Prefix(bits)
		if err != nil {
			return
		}
		for _, s := range read(prefix, []bgp.LargeCommunity{{Global: admin, Local1: function, Local2: i}}).servers {
			if !prefix.Contains(s) {
				t.Errorf("%s with %d:%d has server %s", prefix, function, i, s)
			}
			if again := Marks(admin, "", prefix, []netip.Addr{s}); len(again) != 2 || fmt.Sprint(read(prefix, again).servers) != fmt.Sprint([]netip.Addr{s}) {
				t.Errorf("%s in %s is marked %v", s, prefix, again)
			}
		}
	})
}
