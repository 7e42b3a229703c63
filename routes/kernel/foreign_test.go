package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

// learn runs a table over the rack's host whose learned routes have the metric, and waits until it is idle.
func (r rack) learn(metric uint32, learned ...routes.Route) *routes.Table {
	r.t.Helper()
	table := routes.NewTable(r.fib(kernel.Options{}), routes.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	for i := range learned {
		learned[i].Metric = metric
	}
	table.Set(routes.Fabric, learned)
	if err := table.WaitIdle(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return table
}

func (r rack) ours() string {
	r.t.Helper()
	return r.ip(r.host, "route", "show", "proto", "176") + "\n" + r.ip(r.host, "-6", "route", "show", "proto", "176")
}

// states waits until the table says of each prefix what is wanted: "PREFIX STATE".
func states(t *testing.T, table *routes.Table, want ...string) {
	t.Helper()
	eventually(t, strings.Join(want, ", "), func() bool {
		got := map[string]bool{}
		for _, s := range table.Status() {
			got[fmt.Sprintf("%v %v", s.Route.Prefix, s.State)] = true
		}
		for _, w := range want {
			if !got[w] {
				return false
			}
		}
		return true
	})
}

// A learned route must not take the place of any route that the host has by itself, whatever the metrics are: one that is
// better by its metric, or longer than a link's network, would.
func TestLearnedRoutesGiveWay(t *testing.T) {
	r := newRack(t)
	r.ip(r.host, "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
	r.ip(r.host, "addr", "add", "172.16.0.1/16", "dev", "lan0")
	r.ip(r.host, "addr", "add", "2001:db8:1::1/64", "dev", "lan0", "nodad")
	r.ip(r.host, "link", "set", "lan0", "up")
	r.ip(r.host, "link", "set", "lan1", "up")
	r.ip(r.host, "route", "add", "10.9.0.0/16", "via", "172.16.0.2", "metric", "3000")
	r.ip(r.host, "route", "add", "default", "via", "172.16.0.2", "proto", "dhcp", "metric", "100")
	r.ip(r.host, "route", "add", "unreachable", "10.10.0.0/16", "metric", "4000")
	before := r.ip(r.host, "route") + r.ip(r.host, "-6", "route")
	table := r.learn(20,
		via("0.0.0.0/0", "192.0.2.1"), via("10.9.0.0/16", "192.0.2.1"), via("10.10.0.0/16", "192.0.2.1"),
		via("172.16.0.0/16", "192.0.2.1"), via("172.16.5.0/24", "192.0.2.1"), via("2001:db8:1::/64", "2001:db8::1"),
		via("2001:db8:1::2/128", "2001:db8::1"), via("192.0.2.0/31", "192.0.2.1"),
	)
	if got := r.ours(); got != "\n" {
		t.Errorf("the kernel has learned routes in the host's places:\n%s", got)
	}
	for _, s := range table.Status() {
		if s.State != routes.Refused || !errors.Is(s.Err, routes.ErrRefused) {
			t.Errorf("%v: %v, %v", s.Route, s.State, s.Err)
		}
		if s.Route.Prefix == pfx("10.9.0.0/16") && s.Err.Error() != "the host has its own route: 10.9.0.0/16 via 172.16.0.2 dev lan0 proto boot metric 3000" {
			t.Errorf("reason: %v", s.Err)
		}
		if s.Route.Prefix == pfx("172.16.5.0/24") && s.Err.Error() != "it is in the network of a link: 172.16.0.0/16 dev lan0 proto kernel" {
			t.Errorf("reason: %v", s.Err)
		}
	}
	if after := r.ip(r.host, "route") + r.ip(r.host, "-6", "route"); after != before {
		t.Errorf("routes were\n%s\nand are\n%s", before, after)
	}

	// What is shorter than a link's network, or only inside somebody's static route, is nobody's place.
	table.Update(routes.Fabric, []routes.Route{via("172.16.0.0/12", "192.0.2.1"), via("10.9.1.0/24", "192.0.2.1")}, nil)
	states(t, table, "172.16.0.0/12 installed", "10.9.1.0/24 installed")
}

// Places are given up and taken at once, as the host's own routes come and go.
func TestForeignRoutesComeAndGo(t *testing.T) {
	r := newRack(t)
	r.ip(r.host, "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
	r.ip(r.host, "link", "set", "lan1", "up")
	table := r.learn(20, via("0.0.0.0/0", "192.0.2.1"), via("172.16.5.0/24", "192.0.2.1"), via("2001:db8:1::/64", "2001:db8::1"))
	states(t, table, "0.0.0.0/0 installed", "172.16.5.0/24 installed", "2001:db8:1::/64 installed")

	r.ip(r.host, "addr", "add", "172.16.0.1/16", "dev", "lan0")
	r.ip(r.host, "addr", "add", "2001:db8:1::1/64", "dev", "lan0", "nodad")
	r.ip(r.host, "link", "set", "lan0", "up")
	r.ip(r.host, "route", "add", "default", "via", "172.16.0.2", "metric", "9000")
	states(t, table, "0.0.0.0/0 refused", "172.16.5.0/24 refused", "2001:db8:1::/64 refused")
	if got := r.ours(); got != "\n" {
		t.Errorf("the kernel still has\n%s", got)
	}

	r.ip(r.host, "route", "del", "default", "via", "172.16.0.2")
	states(t, table, "0.0.0.0/0 installed", "172.16.5.0/24 refused")

	// The kernel tells nothing of the IPv4 routes that go with a link.
	r.ip(r.host, "link", "set", "lan0", "down")
	states(t, table, "172.16.5.0/24 installed", "2001:db8:1::/64 installed")
	r.ip(r.host, "link", "set", "lan0", "up")
	states(t, table, "172.16.5.0/24 refused")
	r.ip(r.host, "link", "del", "lan0")
	states(t, table, "0.0.0.0/0 installed", "172.16.5.0/24 installed", "2001:db8:1::/64 installed")

	// One of two legs that goes leaves the route.
	for _, p := range []string{"boot", "static"} {
		r.ip(r.host, "-6", "route", "add", "2001:db8:1::/64", "proto", p, "metric", "5000", "nexthop", "via", "2001:db8::1", "dev", "eth0", "nexthop", "via", "2001:db8::3", "dev", "eth1")
		states(t, table, "2001:db8:1::/64 refused")
		r.ip(r.host, "-6", "route", "del", "2001:db8:1::/64", "proto", p, "metric", "5000", "via", "2001:db8::1", "dev", "eth0")
		r.ip(r.host, "route", "add", "203.0.113.0/24", "via", "192.0.2.1") // its event comes after those above
		table.Update(routes.Fabric, []routes.Route{via("203.0.113.0/24", "192.0.2.1")}, nil)
		states(t, table, "203.0.113.0/24 refused", "2001:db8:1::/64 refused")
		r.ip(r.host, "-6", "route", "del", "2001:db8:1::/64", "proto", p, "metric", "5000")
		r.ip(r.host, "route", "del", "203.0.113.0/24", "via", "192.0.2.1")
		states(t, table, "203.0.113.0/24 installed", "2001:db8:1::/64 installed")
		table.Update(routes.Fabric, nil, []netip.Prefix{pfx("203.0.113.0/24")})
	}
}

// Other tables are not ours to judge, and neither are the owners other than the fabric.
func TestGuardLooksAtOurTableOnly(t *testing.T) {
	r := newRack(t)
	r.ip(r.host, "route", "add", "10.9.0.0/16", "via", "192.0.2.1", "table", "100")
	r.ip(r.host, "route", "add", "10.64.0.0/26", "via", "192.0.2.1", "metric", "9000")
	table := r.learn(20, via("10.9.0.0/16", "192.0.2.1"))
	states(t, table, "10.9.0.0/16 installed")
	if err := table.Upsert(t.Context(), routes.Blocks, discard("10.64.0.0/26")); err != nil {
		t.Errorf("a block's discard route: %v", err)
	}
}
