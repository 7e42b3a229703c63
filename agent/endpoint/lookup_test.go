package endpoint_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes"
)

func TestLookup(t *testing.T) {
	w, host := newWirer(t)
	table := newTable(t, host)
	forward(t, host)
	box := nstest.New(t, "box")
	s := spec(box, "box", "10.64.0.1", "2001:db8:64::1")
	wire(t, w, s)
	for _, args := range []string{
		"link set lo up", "link add name up1 type veth peer name up1p", "link add name up2 type veth peer name up2p",
		"link set up1 up", "link set up1p up", "link set up2 up", "link set up2p up",
		"address add 10.0.1.1/31 dev up1", "address add 10.0.2.1/31 dev up2", "address add 2001:db8:1::1/127 dev up1 nodad", "address add 2001:db8:2::1/127 dev up2 nodad",
		"address add 10.64.0.0/32 dev lo", "route add unreachable 10.66.0.0/16", "route add prohibit 10.67.0.0/16",
		"route add 10.68.0.0/16 via inet6 2001:db8:1:: dev up1",
	} {
		ip(t, host, strings.Fields(args)...)
	}
	legs := func(prefix string, hops ...string) routes.Route {
		r := routes.Route{Prefix: netip.MustParsePrefix(prefix)}
		for _, h := range hops {
			r.NextHops = append(r.NextHops, routes.NextHop{Addr: netip.MustParseAddr(h)})
		}
		return r
	}
	for _, r := range []routes.Route{
		{Prefix: netip.MustParsePrefix("10.64.0.1/32"), NextHops: []routes.NextHop{{Link: s.HostLink}}},
		{Prefix: netip.MustParsePrefix("2001:db8:64::1/128"), NextHops: []routes.NextHop{{Link: s.HostLink}}},
		{Prefix: netip.MustParsePrefix("10.64.0.0/26"), Kind: routes.Blackhole},
		{Prefix: netip.MustParsePrefix("2001:db8:64::/64"), Kind: routes.Blackhole},
		legs("10.64.0.0/12", "10.0.1.0", "10.0.2.0"), legs("0.0.0.0/0", "10.0.1.0"),
		legs("2001:db8::/32", "2001:db8:1::", "2001:db8:2::"),
	} {
		if err := table.Upsert(t.Context(), routes.Fabric, r); err != nil {
			t.Fatal(err)
		}
	}
	for addr, want := range map[string]string{
		"10.64.0.0":      "local 10.64.0.0/32 dev lo",
		"10.64.0.1":      "10.64.0.1/32 dev " + s.HostLink + " (ours)",
		"10.64.0.2":      "blackhole",
		"10.65.0.1":      "10.64.0.0/12 via 10.0.1.0 dev up1 via 10.0.2.0 dev up2 (ours)",
		"10.0.2.0":       "10.0.2.0/31 dev up2",
		"10.66.0.1":      "unreachable",
		"10.67.0.1":      "prohibit",
		"10.68.0.1":      "10.68.0.0/16 via 2001:db8:1:: dev up1",
		"192.0.2.1":      "0.0.0.0/0 via 10.0.1.0 dev up1 (ours)",
		"2001:db8:64::1": "2001:db8:64::1/128 dev " + s.HostLink + " (ours)",
		"2001:db8:64::2": "blackhole",
		"2001:db8:65::1": "2001:db8::/32 via 2001:db8:1:: dev up1 via 2001:db8:2:: dev up2 (ours)",
		"2001:db9::1":    "none",
	} {
		f, err := w.Lookup(t.Context(), netip.MustParseAddr(addr))
		got := f.String()
		if f.Ours {
			got += " (ours)"
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}

	if err := w.LinkUp(t.Context(), s.HostLink); err != nil {
		t.Error(err)
	}
	ip(t, box, "link", "set", "eth0", "down")
	if err := w.LinkUp(t.Context(), s.HostLink); err == nil || err.Error() != "the container's end of link "+s.HostLink+" is down" {
		t.Errorf("with the container's end down: %v", err)
	}
	ip(t, host, "link", "set", s.HostLink, "down")
	if err := w.LinkUp(t.Context(), s.HostLink); err == nil || err.Error() != "link "+s.HostLink+" is down" {
		t.Errorf("with the host's end down: %v", err)
	}
	if err := w.LinkUp(t.Context(), "hfnone"); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("without a link: %v", err)
	}
}
