package routes_test

import (
	"errors"
	"testing"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/routetest"
)

func TestLearnedRouteGivesWayToForeignOnes(t *testing.T) {
	for _, theirs := range []routes.Route{via("10.9.0.0/16", "10.0.2.2"), dev("10.9.0.0/16", "lan0"), dev("10.8.0.0/15", "lan0"), discard("10.9.0.0/16")} {
		theirs.Metric = 9000
		var fib routetest.FIB
		fib.PutForeign(theirs, true)
		table, ctx := start(t, &fib, routes.Options{})
		learned := via("10.9.0.0/16", "192.0.2.1")
		if err := table.Upsert(ctx, routes.Fabric, learned); !errors.Is(err, routes.ErrRefused) {
			t.Fatalf("beside %v: %v", theirs, err)
		}
		want(t, &fib, "")
		fib.PutForeign(theirs, false)
		eventually(t, "installed when the place is free", func() bool { return table.Status()[0].State == routes.Installed })
		want(t, &fib, learned.String())
		fib.PutForeign(theirs, true)
		eventually(t, "refused again", func() bool { return table.Status()[0].State == routes.Refused })
		want(t, &fib, "")
		// Withdrawn and announced again, it is as it was.
		if err := table.Delete(ctx, routes.Fabric, learned.Prefix); err != nil {
			t.Error(err)
		}
		if err := table.Upsert(ctx, routes.Fabric, learned); !errors.Is(err, routes.ErrRefused) {
			t.Errorf("again beside %v: %v", theirs, err)
		}
		want(t, &fib, "")
	}
}

// What an earlier run left in the host's place goes before everybody is synced: it does harm.
func TestRefusedLeftoverGoesAtOnce(t *testing.T) {
	var fib routetest.FIB
	learned := via("10.9.0.0/16", "192.0.2.1")
	fib.Put(learned, via("10.7.0.0/16", "192.0.2.1"))
	theirs := via("10.9.0.0/16", "10.0.2.2")
	theirs.Metric = 9000
	fib.PutForeign(theirs, true)
	table, ctx := start(t, &fib, routes.Options{})
	table.Set(routes.Fabric, []routes.Route{learned})
	idle(ctx, t, table)
	want(t, &fib, "10.7.0.0/16 via 192.0.2.1")
}

// A stronger owner's route for the same prefix stands, and what the fabric says of it is reported as shadowed no more.
func TestForeignRoutesConcernTheFabricOnly(t *testing.T) {
	var fib routetest.FIB
	theirs := via("10.9.0.0/16", "10.0.2.2")
	theirs.Metric = 9000
	fib.PutForeign(theirs, true)
	table, ctx := start(t, &fib, routes.Options{})
	table.Set(routes.Fabric, []routes.Route{via("10.9.0.0/16", "192.0.2.1")})
	if err := table.Upsert(ctx, routes.Blocks, discard("10.9.0.0/16")); err != nil {
		t.Fatal(err)
	}
	syncAll(table)
	idle(ctx, t, table)
	want(t, &fib, "blackhole 10.9.0.0/16")
	for _, s := range table.Status() {
		if wanted := map[routes.Owner]routes.State{routes.Blocks: routes.Installed, routes.Fabric: routes.Refused}[s.Owner]; s.State != wanted {
			t.Errorf("%s: %v", s.Owner, s.State)
		}
	}
}
