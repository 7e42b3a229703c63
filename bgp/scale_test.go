package bgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestManyRoutes takes a large table from BIRD: every route arrives, in deliveries of many.
func TestManyRoutes(t *testing.T) {
	const n = 20_000
	h, r := nstest.New(t, "host"), nstest.New(t, "bird")
	cable(t, h, r, 2)
	var conf strings.Builder
	conf.WriteString("router id 192.0.2.102;\nprotocol device {}\nprotocol static s4 {\n ipv4;\n")
	for i := range n {
		fmt.Fprintf(&conf, " route 10.%d.%d.%d/28 blackhole;\n", 128+i>>12, i>>4&0xff, i&0xf<<4)
	}
	conf.WriteString("}\nprotocol bgp host {\n local 10.0.2.0 as 65102;\n neighbor 10.0.2.1 as 65001;\n passive on;\n" +
		" ipv4 { import all; export where source = RTS_STATIC; };\n}\n")
	startBIRDWith(t, r, conf.String())

	host := newNode(t, h, "host")
	c := hostConfig(bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102, MaxPrefixes: 1_000_000})
	c.Policy = bgp.HostPolicy{Import: []bgp.ImportRule{{Prefix: pfx("10.128.0.0/9"), MaxLength: 32}}, OwnSpace: []netip.Prefix{pfx("10.64.1.0/26")}}
	host.configure(t, c, "10.64.1.0/26")
	up := host.established(t, "10.0.2.0").Since
	count := func() int {
		host.fabric.mu.Lock()
		defer host.fabric.mu.Unlock()
		return len(host.fabric.routes)
	}
	eventually(t, 30*time.Second, func() error {
		if got := count(); got != n {
			return fmt.Errorf("%d routes, want %d", got, n)
		}
		return nil
	})
	host.fabric.mu.Lock()
	calls := host.fabric.calls
	host.fabric.mu.Unlock()
	t.Logf("%d routes within %s of the session, in %d deliveries", n, time.Since(up).Round(time.Millisecond), calls)
	if calls > n/20 {
		t.Errorf("%d deliveries for %d routes: not coalesced", calls, n)
	}

	// A new agent gets the same from the running speaker, at once.
	host.stop()
	start := time.Now()
	host.connect(t)
	host.configure(t, c, "10.64.1.0/26")
	host.fabric.waitSynced(t, 1)
	if got := count(); got != n {
		t.Errorf("after a restart of the client: %d routes at the time it is synced, want %d", got, n)
	}
	t.Logf("again for a new client: %s", time.Since(start).Round(time.Millisecond))
}
