package endpoint_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestListNamesContainers: each link has the addresses of its own container and no others, however they came about.
func TestListNamesContainers(t *testing.T) {
	w, host := newWirer(t)
	want := map[string][]netip.Addr{}
	for i := range 20 {
		s := spec(nstest.New(t, fmt.Sprint("c", i)), fmt.Sprint("c", i), fmt.Sprintf("2001:db8:64::%x", i+1), fmt.Sprintf("10.64.0.%d", i+1))
		if i%3 == 0 {
			s.Addrs = s.Addrs[:1]
		}
		wire(t, w, s)
		want[s.HostLink] = slices.SortedFunc(slices.Values(s.Addrs), netip.Addr.Compare)
	}
	first, second := endpoint.HostLink("c0", "eth0"), endpoint.HostLink("c1", "eth0")
	ip(t, host, "neigh", "add", "10.64.0.99", "lladdr", "02:00:00:00:00:01", "dev", first, "nud", "reachable") // not from us
	ip(t, host, "link", "add", "name", "x0", "type", "veth", "peer", "name", "x1")
	ip(t, host, "link", "set", "x0", "up")
	ip(t, host, "neigh", "add", "10.64.0.2", "lladdr", "02:00:00:00:00:01", "dev", "x0", "nud", "permanent")
	ip(t, host, "link", "set", second, "down") // which makes the kernel drop what it knows there
	want[second] = nil
	live, err := w.List(t.Context())
	if err != nil || len(live) != len(want) {
		t.Fatalf("%d links, want %d: %v", len(live), len(want), err)
	}
	for _, l := range live {
		if addrs, ours := want[l.HostLink]; !ours || !slices.Equal(l.Addrs, addrs) {
			t.Errorf("%s has %v, want %v", l.HostLink, l.Addrs, addrs)
		}
	}
}
