package endpoint_test

import (
	"net/netip"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes"
)

func TestPackets(t *testing.T) {
	w, host := newWirer(t)
	table := newTable(t, host)
	forward(t, host)
	a, b := nstest.New(t, "a"), nstest.New(t, "b")
	sa, sb := spec(a, "a", "10.64.0.1"), spec(b, "b", "10.64.0.2")
	ip(t, host, "link", "add", "name", "x0", "type", "veth", "peer", "name", "x1") // somebody else's
	for _, s := range []endpoint.Spec{sa, sb} {
		wire(t, w, s)
		r := routes.Route{Prefix: netip.PrefixFrom(s.Addrs[0], 32), NextHops: []routes.NextHop{{Link: s.HostLink}}}
		if err := table.Upsert(t.Context(), routes.Endpoints, r); err != nil {
			t.Fatal(err)
		}
	}
	before, err := w.Packets(t.Context())
	if err != nil || len(before) != 2 {
		t.Fatalf("%v, %v", before, err)
	}
	const n = 20
	for range n {
		exchange(t, a, b, sa.Addrs[0], sb.Addrs[0])
	}
	now, err := w.Packets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{sa.HostLink, sb.HostLink} {
		if got := now[link] - before[link]; got < 2*n || got > 4*n {
			t.Errorf("%s: %d packets in %d exchanges", link, got, n)
		}
	}
}
