package bgp_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// TestIPv6GoesWithItsNextHop: IPv6 prefixes that were announced on an IPv4 session are withdrawn when they have no next hop
// any more.
func TestIPv6GoesWithItsNextHop(t *testing.T) {
	t.Parallel()
	host, tor, conf, _ := pair(t, func(h, _ *bgp.Peer) { h.NextHop6 = addr("fd00:1::1") })
	host.announce(t, "10.64.1.0/26", "fd64:0:1::/64")
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]; fd64:0:1::/64 via [fd00:1::1]")
	conf.Peers = slices.Clone(conf.Peers)
	conf.Peers[0].NextHop6 = netip.Addr{}
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	tor.fabric.want(t, 5*time.Second, "10.64.1.0/26 via [10.0.1.1]")
}
