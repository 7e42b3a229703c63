package routes_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/routetest"
)

func TestStats(t *testing.T) {
	var fib routetest.FIB
	fib.PutForeign(dev("172.16.0.0/16", "lan0"), true)
	bad := via("10.1.0.0/16", "192.0.2.1")
	fib.Refuse(bad, errors.New("network is unreachable"))
	table, ctx := start(t, &fib, routes.Options{Resync: 10 * time.Millisecond})
	syncAll(table)
	block := discard("10.64.0.0/26")
	table.Set(routes.Blocks, []routes.Route{block})
	table.Set(routes.Fabric, []routes.Route{bad, via("10.2.0.0/16", "192.0.2.1"), via("172.16.0.0/24", "192.0.2.1")})
	idle(ctx, t, table)
	s := table.Stats()
	if s.Wanted[routes.Blocks] != 1 || s.Wanted[routes.Fabric] != 3 || s.Foreign != 1 {
		t.Errorf("wanted %v, foreign %d", s.Wanted, s.Foreign)
	}
	if s.States[routes.Installed] != 2 || s.States[routes.Failed] != 1 || s.States[routes.Refused] != 1 || s.States[routes.Pending] != 0 {
		t.Errorf("states %v", s.States)
	}
	if s.Changes != 2 || s.Errors == 0 || s.Repairs != 0 || s.Resyncs == 0 || s.Batches.Sum <= 0 {
		t.Errorf("done %+v", s)
	}
	amiss := table.Amiss()
	if len(amiss) != 2 || amiss[0].State != routes.Failed || amiss[0].Route.Prefix != bad.Prefix || amiss[1].State != routes.Refused {
		t.Errorf("amiss %v", amiss)
	}
	fib.Lose(block)
	eventually(t, "the repair is counted", func() bool { return table.Stats().Repairs == 1 })
	table.Set(routes.Fabric, nil)
	idle(ctx, t, table)
	if amiss, s := table.Amiss(), table.Stats(); len(amiss) != 0 || s.States[routes.Failed]+s.States[routes.Refused] != 0 {
		t.Errorf("amiss %v, states %v", amiss, s.States)
	}
}
