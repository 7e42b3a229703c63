package kernel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 15 * time.Second

// rack is a host with an uplink to each of two ToRs: eth0 to 192.0.2.0/31 and 2001:db8::/127, eth1 to the next ones.
type rack struct {
	t    testing.TB
	host netns.NS
	tor  [2]netns.NS
}

func newRack(t testing.TB) rack {
	t.Helper()
	r := rack{t: t, host: nstest.New(t, "host"), tor: [2]netns.NS{nstest.New(t, "tor0"), nstest.New(t, "tor1")}}
	for i, tor := range r.tor {
		err := netns.Cable(
			netns.End{NS: r.host, Link: fmt.Sprintf("eth%d", i), Addresses: []string{fmt.Sprintf("192.0.2.%d/31", 2*i), fmt.Sprintf("2001:db8::%x/127", 2*i)}},
			netns.End{NS: tor, Link: "down0", Addresses: []string{fmt.Sprintf("192.0.2.%d/31", 2*i+1), fmt.Sprintf("2001:db8::%x/127", 2*i+1)}},
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r rack) fib(opts kernel.Options) *kernel.FIB {
	r.t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(r.t.Output(), nil))
	}
	var f *kernel.FIB
	err := r.host.Do(func() (err error) {
		f, err = kernel.New(opts)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { f.Close() })
	return f
}

func (r rack) ip(ns netns.NS, args ...string) string {
	r.t.Helper()
	out, err := ns.Output(context.Background(), "ip", args...)
	if err != nil {
		r.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func via(prefix string, hops ...string) routes.Route {
	r := routes.Route{Prefix: pfx(prefix)}
	for _, h := range hops {
		addr, link, _ := strings.Cut(h, "@")
		r.NextHops = append(r.NextHops, routes.NextHop{Addr: netip.MustParseAddr(addr), Link: link})
	}
	return r.Canonical()
}

func dev(prefix, link string) routes.Route {
	return routes.Route{Prefix: pfx(prefix), NextHops: []routes.NextHop{{Link: link}}}.Canonical()
}

func discard(prefix string) routes.Route {
	return routes.Route{Prefix: pfx(prefix), Kind: routes.Blackhole}.Canonical()
}

func apply(t testing.TB, f *kernel.FIB, op routes.Op, rs ...routes.Route) {
	t.Helper()
	changes := make([]routes.Change, len(rs))
	for i, r := range rs {
		changes[i] = routes.Change{Op: op, Route: r}
	}
	for i, err := range f.Apply(t.Context(), changes) {
		if err != nil {
			t.Fatalf("%v: %v", changes[i], err)
		}
	}
}

func list(t testing.TB, f *kernel.FIB) string {
	t.Helper()
	rs, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range rs {
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func wantList(t testing.TB, f *kernel.FIB, lines ...string) {
	t.Helper()
	slices.Sort(lines)
	if got, want := list(t, f), strings.Join(lines, "\n"); got != want {
		t.Fatalf("listed\n%s\nwant\n%s", got, want)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", patience, what)
}

func TestEveryShapeOfRouteComesBackFromTheKernel(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	for _, route := range []routes.Route{
		via("0.0.0.0/0", "192.0.2.1", "192.0.2.3"),
		via("::/0", "2001:db8::1", "2001:db8::3"),
		via("10.1.0.0/16", "192.0.2.1@eth0"),
		{Prefix: pfx("10.2.0.0/16"), Metric: 20, Source: netip.MustParseAddr("192.0.2.0"), NextHops: via("10.2.0.0/16", "192.0.2.3").NextHops},
		{Prefix: pfx("2001:db8:2::/48"), Metric: 20, Source: netip.MustParseAddr("2001:db8::2"), NextHops: via("::/0", "2001:db8::3").NextHops},
		via("10.3.0.0/16", "2001:db8::1"),
		via("10.4.0.0/16", "fe80::99@eth1"),
		via("10.5.0.0/16", "192.0.2.1", "fe80::99@eth1"),
		{Prefix: pfx("10.6.0.0/16"), NextHops: []routes.NextHop{{Addr: netip.MustParseAddr("169.254.0.1"), Link: "eth0", Onlink: true}}},
		dev("10.64.0.5/32", "eth0"),
		dev("2001:db8:64::5/128", "eth1"),
		discard("10.64.0.0/26"),
		discard("2001:db8:64::/64"),
	} {
		route = route.Canonical()
		t.Run(route.String(), func(t *testing.T) {
			apply(t, f, routes.Add, route)
			rs, err := f.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(rs) != 1 || !same(route, rs[0]) {
				t.Errorf("listed %v", rs)
			}
			if errs := f.Apply(t.Context(), []routes.Change{{Op: routes.Add, Route: route}}); !errors.Is(errs[0], routes.ErrExists) {
				t.Errorf("second add: %v", errs[0])
			}
			apply(t, f, routes.Replace, route)
			apply(t, f, routes.Delete, route)
			apply(t, f, routes.Delete, route)
			wantList(t, f)
			if errs := f.Apply(t.Context(), []routes.Change{{Op: routes.Replace, Route: route}}); !errors.Is(errs[0], routes.ErrGone) {
				t.Errorf("replace of nothing: %v", errs[0])
			}
		})
	}
}

// same compares but for links that the kernel resolved.
func same(want, have routes.Route) bool {
	have.NextHops = slices.Clone(have.NextHops)
	for i := range min(len(want.NextHops), len(have.NextHops)) {
		if want.NextHops[i].Link == "" {
			have.NextHops[i].Link = ""
		}
	}
	return want.String() == have.String() && slices.Equal(want.NextHops, have.NextHops)
}

func TestReplaceTurnsAnyRouteIntoAnyOther(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	for _, shapes := range [][]routes.Route{
		{via("10.1.0.0/16", "192.0.2.1@eth0"), via("10.1.0.0/16", "192.0.2.1@eth0", "192.0.2.3@eth1"), dev("10.1.0.0/16", "eth0"), discard("10.1.0.0/16")},
		{via("2001:db8:1::/48", "2001:db8::1@eth0"), via("2001:db8:1::/48", "2001:db8::1@eth0", "2001:db8::3@eth1"), dev("2001:db8:1::/48", "eth0"), discard("2001:db8:1::/48")},
	} {
		apply(t, f, routes.Add, shapes[0])
		for _, from := range shapes {
			for _, to := range shapes {
				apply(t, f, routes.Replace, from)
				apply(t, f, routes.Replace, to)
				wantList(t, f, to.String())
			}
		}
		apply(t, f, routes.Delete, shapes[0])
	}
}

func TestOnlyOurRoutesAreListedAndTouched(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	r.ip(r.host, "route", "add", "10.9.0.0/16", "via", "192.0.2.1", "proto", "static")
	r.ip(r.host, "-6", "route", "add", "2001:db8:9::/48", "via", "2001:db8::1", "proto", "static")
	r.ip(r.host, "route", "add", "10.8.0.0/16", "via", "192.0.2.1", "proto", "176", "table", "100")
	before := r.ip(r.host, "route") + r.ip(r.host, "-6", "route")
	wantList(t, f)
	for _, p := range []string{"10.9.0.0/16", "2001:db8:9::/48"} {
		errs := f.Apply(t.Context(), []routes.Change{
			{Op: routes.Add, Route: discard(p)},
			{Op: routes.Delete, Route: discard(p)},
		})
		if !errors.Is(errs[0], routes.ErrExists) || errs[1] != nil {
			t.Errorf("%s: %v", p, errs)
		}
	}
	if after := r.ip(r.host, "route") + r.ip(r.host, "-6", "route"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

func TestErrorsBelongToTheirRoutes(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	changes := []routes.Change{
		{Op: routes.Add, Route: via("10.0.0.0/16", "192.0.2.1")},
		{Op: routes.Add, Route: via("10.1.0.0/16", "198.51.100.1")},      // on no connected network
		{Op: routes.Add, Route: via("10.2.0.0/16", "198.51.100.1@eth0")}, // the kernel will not have it
		{Op: routes.Add, Route: dev("10.3.0.0/16", "nosuch")},
		{Op: routes.Add, Route: routes.Route{Prefix: pfx("10.4.0.0/16"), Source: netip.MustParseAddr("203.0.113.1"), NextHops: via("10.4.0.0/16", "192.0.2.1").NextHops}},
		{Op: routes.Delete, Route: discard("10.5.0.0/16")},
		{Op: routes.Add, Route: via("10.6.0.0/16", "192.0.2.1", "198.51.100.1")},
		{Op: routes.Add, Route: dev("10.7.0.0/16", "eth1")},
	}
	errs := f.Apply(t.Context(), changes)
	for i, fails := range []bool{false, true, true, true, true, false, false, false} {
		if (errs[i] != nil) != fails {
			t.Errorf("%v: %v", changes[i], errs[i])
		}
	}
	wantList(t, f, "10.0.0.0/16 via 192.0.2.1 dev eth0", "10.6.0.0/16 via 192.0.2.1 dev eth0", "10.7.0.0/16 dev eth1")
}

func TestNextHopsAreSharedAndCollected(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	var rs []routes.Route
	for i := range 1000 {
		rs = append(rs, via(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), "192.0.2.1", "192.0.2.3"))
	}
	r.ip(r.host, "nexthop", "add", "id", "7", "via", "192.0.2.1", "dev", "eth0")
	apply(t, f, routes.Add, rs...)
	if n := r.nexthops(); n != 3 {
		t.Fatalf("%d nexthops for one set of two", n)
	}
	apply(t, f, routes.Replace, via("10.0.0.0/24", "192.0.2.3"))
	list(t, f)
	if n := r.nexthops(); n != 4 {
		t.Fatalf("%d nexthops for two sets of two", n)
	}
	apply(t, f, routes.Delete, rs...)
	list(t, f)
	if got := r.ip(r.host, "nexthop"); got != "id 7 via 192.0.2.1 dev eth0 scope link" {
		t.Fatalf("left:\n%s", got)
	}
}

func (r rack) nexthops() int {
	return strings.Count(r.ip(r.host, "nexthop", "show", "protocol", "176"), "id ")
}

func TestRestartAdoptsWhatItFinds(t *testing.T) {
	r := newRack(t)
	first := r.fib(kernel.Options{})
	route := via("0.0.0.0/0", "192.0.2.1@eth0", "192.0.2.3@eth1")
	apply(t, first, routes.Add, route)
	before := r.ip(r.host, "nexthop")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := r.fib(kernel.Options{})
	wantList(t, second, route.String())
	apply(t, second, routes.Add, via("10.1.0.0/16", "192.0.2.1", "192.0.2.3"))
	if after := r.ip(r.host, "nexthop"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

func TestSuspendMovesEveryPrefix(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	both := via("10.1.0.0/16", "192.0.2.1@eth0", "192.0.2.3@eth1")
	single := via("10.2.0.0/16", "192.0.2.1@eth0")
	apply(t, f, routes.Add, both, single)
	if err := f.Suspend(true, netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if got := r.ip(r.host, "route", "show", "proto", "176"); strings.Contains(got, "192.0.2.1 ") || !strings.Contains(got, "via 192.0.2.3 dev eth1") || strings.Contains(got, "10.2.0.0") {
		t.Fatalf("suspended:\n%s", got)
	}
	wantList(t, f, both.String())
	if errs := f.Apply(t.Context(), []routes.Change{{Op: routes.Add, Route: single}}); errs[0] == nil {
		t.Error("route over a suspended next hop only: installed")
	}
	if err := f.Suspend(false, netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	apply(t, f, routes.Add, single)
	wantList(t, f, both.String(), single.String())
	if got := r.ip(r.host, "route", "show", "10.1.0.0/16"); !strings.Contains(got, "192.0.2.1") {
		t.Fatalf("resumed:\n%s", got)
	}
}

// TestSuspendTouchesNoRoute: the kernel announces every route of a group that is replaced, with its lock held, and the next
// suspension, maybe another host's in the same kernel, waits for that.
func TestSuspendTouchesNoRoute(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	var changes []routes.Change
	for _, p := range prefixes(100) {
		changes = append(changes, routes.Change{Op: routes.Add, Route: via(p.String(), "192.0.2.1@eth0", "192.0.2.3@eth1")})
	}
	if err := errors.Join(f.Apply(t.Context(), changes)...); err != nil {
		t.Fatal(err)
	}
	var events *nl.NetlinkSocket
	err := r.host.Do(func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := f.Suspend(true, netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	r.ip(r.host, "route", "add", "198.51.100.9", "dev", "eth0") // whose event is the last
	if got := r.ip(r.host, "route", "show", prefixes(1)[0].String()); strings.Contains(got, "192.0.2.1 ") || !strings.Contains(got, "192.0.2.3") {
		t.Errorf("suspended: %s", got)
	}
	told := 0
	for last := false; !last; told++ {
		messages, _, err := events.Receive()
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d events at once, %v", len(messages), err)
		}
		last = bytes.Contains(messages[0].Data, []byte{198, 51, 100, 9})
	}
	if told != 1 {
		t.Errorf("the kernel told of %d routes beside the one that was added", told-1)
	}
	if err := f.Suspend(false, netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if got := r.ip(r.host, "route", "show", prefixes(1)[0].String()); !strings.Contains(got, "192.0.2.1 ") {
		t.Errorf("resumed: %s", got)
	}
}

func TestDeleteSparesOtherMetrics(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	for _, p := range []string{"10.64.0.5/32", "2001:db8:64::5/128"} {
		host := dev(p, "eth0")
		block, learned := discard(p), via(p, "192.0.2.1@eth0")
		if host.Prefix.Addr().Is6() {
			learned = via(p, "2001:db8::1@eth0")
		}
		block.Metric, learned.Metric = 1<<32-1, 2048
		apply(t, f, routes.Add, block, learned, host)
		for range 2 { // a container is detached twice
			apply(t, f, routes.Delete, routes.Route{Prefix: host.Prefix}.Canonical())
			wantList(t, f, block.String(), learned.String())
		}
		apply(t, f, routes.Delete, block, learned)
		wantList(t, f)
	}
}

func TestDeleteAfterARefusedReplace(t *testing.T) {
	r := newRack(t)
	f := r.fib(kernel.Options{})
	bad := via("10.1.0.0/16", "192.0.2.1")
	bad.Source = netip.MustParseAddr("203.0.113.1")
	for _, refused := range []routes.Route{bad, via("10.1.0.0/16", "198.51.100.1@nosuch")} {
		apply(t, f, routes.Add, dev("10.1.0.0/16", "eth0"))
		if errs := f.Apply(t.Context(), []routes.Change{{Op: routes.Replace, Route: refused}}); errs[0] == nil {
			t.Fatalf("%v: accepted", refused)
		}
		wantList(t, f, "10.1.0.0/16 dev eth0")
		f.Apply(t.Context(), []routes.Change{{Op: routes.Replace, Route: refused}})
		apply(t, f, routes.Delete, routes.Route{Prefix: refused.Prefix})
		wantList(t, f)
	}
}

func TestNoFileDescriptorsLeak(t *testing.T) {
	r := newRack(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	cycle := func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := r.host.Do(func() error {
			f, err := kernel.New(kernel.Options{})
			if err != nil {
				return err
			}
			_, err = f.Watch(ctx)
			return errors.Join(err, f.Close())
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := count()
	for range 50 {
		cycle()
	}
	eventually(t, "as few file descriptors as before", func() bool { return count() <= before })
}
