package ipam

import (
	"net/netip"
	"testing"
)

func TestLeasedInAndPoolOf(t *testing.T) {
	f := newFixture(t, "10.1.0.0/28", "fd00::/64")
	f.allocate("a", "10.1.0.5")
	f.allocate("b", "10.1.0.9")
	f.release("b")
	for p, want := range map[string]bool{
		"10.1.0.5/32": true, "10.1.0.9/32": false, "10.1.0.4/30": true, "10.1.0.8/29": false, "10.0.0.0/8": true, "fd00::/64": true, "fd01::/64": false,
	} {
		if got := f.LeasedIn(netip.MustParsePrefix(p)); got != want {
			t.Errorf("leased in %s: %v, want %v", p, got, want)
		}
	}
	for addr, want := range map[string]string{"10.1.0.3": DefaultPool, "10.1.0.16": "", "fd00::1": DefaultPool} {
		if got := f.PoolOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("pool of %s: %q, want %q", addr, got, want)
		}
	}
}
