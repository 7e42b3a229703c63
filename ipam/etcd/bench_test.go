package etcd

import (
	"fmt"
	"math/bits"
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// BenchmarkChoose is the part of a Grow that is this host's own work, in a pool of 16,384 blocks.
func BenchmarkChoose(b *testing.B) {
	pool := ipam.Pool{Name: "default", Prefixes: prefixes("10.64.0.0/12"), BaseIPv4: 26}
	for _, n := range []int{1000, 16000} {
		s := &Source{id: Identity{"0", "h"}, unsettled: map[area][]netip.Prefix{}, told: map[netip.Prefix]struct{}{}, keys: keys{DefaultPrefix}}
		snap := &snapshot{}
		names, values := []string{}, [][]byte{}
		for i := range n {
			at := bits.Reverse16(uint16(i)) >> 2
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + byte(at>>10), byte(at >> 2), byte(at << 6)}), 26)
			h := holder{fmt.Sprintf("%032d", i), fmt.Sprint("host-", i), time.Now().Format(time.RFC3339)}
			names, values = append(names, s.keys.claim("default", p)), append(values, []byte(h.encode()))
			snap.claims = append(snap.claims, claim{Claim: Claim{Prefix: p, Pool: "default", ID: h.ID}})
		}
		b.Run(fmt.Sprint("choose/", n), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.choose(snap, pool, area{"default", false}, ipam.Growth{}, first); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("decode/", n), func(b *testing.B) {
			for b.Loop() {
				for i := range names {
					if _, _, err := s.keys.parse(names[i]); err != nil || decodeHolder(values[i]).ID == "" {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
