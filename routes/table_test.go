package routes_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/routetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func via(prefix string, hops ...string) routes.Route {
	r := routes.Route{Prefix: pfx(prefix)}
	for _, h := range hops {
		addr, link, _ := strings.Cut(h, "@")
		r.NextHops = append(r.NextHops, routes.NextHop{Addr: netip.MustParseAddr(addr), Link: link})
	}
	return r
}

func dev(prefix, link string) routes.Route {
	return routes.Route{Prefix: pfx(prefix), NextHops: []routes.NextHop{{Link: link}}}
}

func discard(prefix string) routes.Route {
	return routes.Route{Prefix: pfx(prefix), Kind: routes.Blackhole}
}

// start runs a table over fib until the test ends.
func start(t testing.TB, fib routes.FIB, opts routes.Options) (*routes.Table, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	table := routes.NewTable(fib, opts)
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return table, ctx
}

func idle(ctx context.Context, t testing.TB, table *routes.Table) {
	t.Helper()
	if err := table.WaitIdle(ctx); err != nil {
		t.Fatal(err)
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

func want(t testing.TB, fib *routetest.FIB, lines ...string) {
	t.Helper()
	if got, want := strings.TrimSpace(fib.String()), strings.Join(lines, "\n"); got != want {
		t.Fatalf("kernel has\n%s\nwant\n%s", got, want)
	}
}

func syncAll(table *routes.Table) {
	for _, o := range []routes.Owner{routes.Blocks, routes.Endpoints, routes.Fabric} {
		table.Synced(o)
	}
}

func TestUpsertAndDeleteWaitForTheKernel(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{})
	if err := table.Upsert(ctx, routes.Endpoints, dev("10.64.0.5/32", "hf1")); err != nil {
		t.Fatal(err)
	}
	want(t, &fib, "10.64.0.5/32 dev hf1")
	if err := table.Upsert(ctx, routes.Endpoints, dev("10.64.0.5/32", "hf2")); err != nil {
		t.Fatal(err)
	}
	want(t, &fib, "10.64.0.5/32 dev hf2")
	for range 2 {
		if err := table.Delete(ctx, routes.Endpoints, pfx("10.64.0.5/32")); err != nil {
			t.Fatal(err)
		}
	}
	want(t, &fib, "")
}

func TestUpsertAsksTheKernelEvenIfTheRouteIsThoughtInstalled(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{})
	r := dev("10.64.0.5/32", "hf1")
	for range 2 {
		if err := table.Upsert(ctx, routes.Endpoints, r); err != nil {
			t.Fatal(err)
		}
		want(t, &fib, "10.64.0.5/32 dev hf1")
		fib.Lose(r)
	}
}

func TestRefusalIsReportedAndTriedAgain(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{})
	bad, good := via("10.1.0.0/16", "192.0.2.1"), via("10.2.0.0/16", "192.0.2.1")
	refused := errors.New("network is unreachable")
	fib.Refuse(bad, refused)
	table.Set(routes.Fabric, []routes.Route{bad, good})
	idle(ctx, t, table)
	want(t, &fib, "10.2.0.0/16 via 192.0.2.1")
	st := table.Status()
	if len(st) != 2 || st[0].State != routes.Failed || !errors.Is(st[0].Err, refused) || st[1].State != routes.Installed {
		t.Fatalf("status %+v", st)
	}
	if err := table.Upsert(ctx, routes.Fabric, bad); !errors.Is(err, refused) {
		t.Fatalf("Upsert: %v", err)
	}
	fib.Refuse(bad, nil)
	eventually(t, "route installed by retry", func() bool { return table.Status()[0].State == routes.Installed })
	want(t, &fib, "10.1.0.0/16 via 192.0.2.1", "10.2.0.0/16 via 192.0.2.1")
}

func TestHintRetriesAtOnce(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{})
	r := via("10.1.0.0/16", "192.0.2.1")
	fib.Refuse(r, errors.New("network is down"))
	table.Set(routes.Fabric, []routes.Route{r})
	idle(ctx, t, table)
	// Let the backoff grow well beyond what the hint may take.
	eventually(t, "several tries", func() bool { n, _ := fib.Calls(); return n >= 5 })
	fib.Refuse(r, nil)
	begin := time.Now()
	fib.Hint()
	eventually(t, "installed", func() bool { return table.Status()[0].State == routes.Installed })
	if d := time.Since(begin); d > time.Second {
		t.Errorf("took %v", d)
	}
}

func TestNothingIsPrunedBeforeEveryOwnerIsSynced(t *testing.T) {
	var fib routetest.FIB
	fib.Put(via("0.0.0.0/0", "192.0.2.1"), dev("10.64.0.9/32", "hf9"), discard("10.64.0.0/26"))
	table, ctx := start(t, &fib, routes.Options{})
	table.Set(routes.Blocks, []routes.Route{discard("10.64.0.0/26")})
	table.Synced(routes.Blocks)
	table.Synced(routes.Endpoints)
	idle(ctx, t, table)
	if log := fib.TakeLog(); log != "" {
		t.Fatalf("changes before sync:\n%s", log)
	}
	table.Set(routes.Fabric, []routes.Route{via("0.0.0.0/0", "192.0.2.1", "192.0.2.3")})
	idle(ctx, t, table)
	want(t, &fib, "0.0.0.0/0 nexthop via 192.0.2.1 nexthop via 192.0.2.3", "blackhole 10.64.0.0/26", "10.64.0.9/32 dev hf9")
	if got := fib.TakeLog(); !strings.HasPrefix(got, "ip route replace 0.0.0.0/0") {
		t.Fatalf("changes:\n%s", got)
	}
	table.Synced(routes.Fabric)
	idle(ctx, t, table)
	want(t, &fib, "0.0.0.0/0 nexthop via 192.0.2.1 nexthop via 192.0.2.3", "blackhole 10.64.0.0/26")
}

func TestDeleteOfALeftoverNeedsNoSync(t *testing.T) {
	var fib routetest.FIB
	fib.Put(dev("10.64.0.9/32", "hf9"), dev("2001:db8::9/128", "hf9"), dev("10.64.0.8/32", "hf8"))
	table, ctx := start(t, &fib, routes.Options{})
	for _, p := range []string{"10.64.0.9/32", "2001:db8::9/128"} {
		if err := table.Delete(ctx, routes.Endpoints, pfx(p)); err != nil {
			t.Fatal(err)
		}
	}
	want(t, &fib, "10.64.0.8/32 dev hf8")
}

func TestSyncDeadline(t *testing.T) {
	var fib routetest.FIB
	fib.Put(via("0.0.0.0/0", "192.0.2.1"))
	start(t, &fib, routes.Options{SyncDeadline: 20 * time.Millisecond})
	eventually(t, "pruned", func() bool { return fib.String() == "" })
}

func TestPrecedence(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{})
	syncAll(table)
	table.Set(routes.Fabric, []routes.Route{via("10.64.0.5/32", "192.0.2.1")})
	idle(ctx, t, table)
	want(t, &fib, "10.64.0.5/32 via 192.0.2.1")
	if err := table.Upsert(ctx, routes.Endpoints, dev("10.64.0.5/32", "hf5")); err != nil {
		t.Fatal(err)
	}
	want(t, &fib, "10.64.0.5/32 dev hf5")
	for _, s := range table.Status() {
		if shadowed := errors.Is(s.Err, routes.ErrShadowed); shadowed != (s.Owner == routes.Fabric) || shadowed != (s.State == routes.Failed) {
			t.Errorf("%+v", s)
		}
	}
	if err := table.Upsert(ctx, routes.Blocks, discard("10.64.0.5/32")); !errors.Is(err, routes.ErrShadowed) {
		t.Errorf("Upsert of the weaker owner: %v", err)
	}
	if err := table.Delete(ctx, routes.Endpoints, pfx("10.64.0.5/32")); err != nil {
		t.Fatal(err)
	}
	want(t, &fib, "blackhole 10.64.0.5/32")
}

func TestForeignRouteIsNotTouched(t *testing.T) {
	var fib routetest.FIB
	theirs := via("10.64.0.0/26", "10.0.2.2")
	fib.PutForeign(theirs, true)
	table, ctx := start(t, &fib, routes.Options{})
	if err := table.Upsert(ctx, routes.Blocks, discard("10.64.0.0/26")); !errors.Is(err, routes.ErrExists) {
		t.Fatalf("Upsert: %v", err)
	}
	fib.PutForeign(theirs, false)
	eventually(t, "installed when the place is free", func() bool { return table.Status()[0].State == routes.Installed })
}

func TestMetricChangeAddsBeforeItDeletes(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{})
	r := via("0.0.0.0/0", "192.0.2.1")
	if err := table.Upsert(ctx, routes.Fabric, r); err != nil {
		t.Fatal(err)
	}
	fib.TakeLog()
	r.Metric = 20
	if err := table.Upsert(ctx, routes.Fabric, r); err != nil {
		t.Fatal(err)
	}
	idle(ctx, t, table)
	want(t, &fib, "0.0.0.0/0 via 192.0.2.1 metric 20")
	if got, want := fib.TakeLog(), "ip route add 0.0.0.0/0 via 192.0.2.1 metric 20\nip route del 0.0.0.0/0"; got != want {
		t.Errorf("changes:\n%s\nwant\n%s", got, want)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{Resync: 10 * time.Millisecond})
	syncAll(table)
	r := discard("10.64.0.0/26")
	table.Set(routes.Blocks, []routes.Route{r})
	idle(ctx, t, table)
	fib.Lose(r)
	fib.Put(discard("10.99.0.0/26"))
	eventually(t, "repaired", func() bool { return strings.TrimSpace(fib.String()) == r.String() })
}

func TestHintsDoNotMultiplyListings(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{Resync: time.Hour})
	idle(ctx, t, table)
	begin := time.Now()
	n := 0
	for time.Since(begin) < 200*time.Millisecond {
		fib.Hint()
		n++
	}
	if _, lists := fib.Calls(); lists > 15 {
		t.Errorf("%d hints caused %d listings in 200 ms", n, lists)
	}
}

func TestChangesComeInBatches(t *testing.T) {
	var fib routetest.FIB
	table := routes.NewTable(&fib, routes.Options{})
	var all []routes.Route
	for i := range 10_000 {
		all = append(all, via(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), "192.0.2.1", "192.0.2.3"))
	}
	table.Set(routes.Fabric, all)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	idle(ctx, t, table)
	if applies, _ := fib.Calls(); applies > 50 {
		t.Errorf("%d calls for %d routes", applies, len(all))
	}
	table.Update(routes.Fabric, all[:2], []netip.Prefix{all[1].Prefix, all[2].Prefix})
	idle(ctx, t, table)
	if got := strings.Count(fib.String(), "\n"); got != len(all)-1 {
		t.Errorf("%d routes, want %d", got, len(all)-1)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := table.Upsert(context.Background(), routes.Fabric, all[0]); !errors.Is(err, routes.ErrStopped) {
		t.Errorf("after Run: %v", err)
	}
}

func TestInvalidRoutes(t *testing.T) {
	table := routes.NewTable(&routetest.FIB{}, routes.Options{})
	four := netip.MustParseAddr("192.0.2.1")
	for name, r := range map[string]routes.Route{
		"no prefix":              {NextHops: []routes.NextHop{{Link: "eth0"}}},
		"no next hop":            {Prefix: pfx("10.0.0.0/8")},
		"blackhole with hops":    {Prefix: pfx("10.0.0.0/8"), Kind: routes.Blackhole, NextHops: []routes.NextHop{{Link: "eth0"}}},
		"empty hop":              {Prefix: pfx("10.0.0.0/8"), NextHops: []routes.NextHop{{}}},
		"IPv6 over IPv4":         {Prefix: pfx("2001:db8::/32"), NextHops: []routes.NextHop{{Addr: four}}},
		"link-local, no link":    via("10.0.0.0/8", "fe80::1"),
		"source of other family": {Prefix: pfx("2001:db8::/32"), Kind: routes.Blackhole, Source: four},
		"onlink, no link":        {Prefix: pfx("10.0.0.0/8"), NextHops: []routes.NextHop{{Addr: four, Onlink: true}}},
	} {
		if err := table.Upsert(t.Context(), routes.Fabric, r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
