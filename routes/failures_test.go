package routes_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/routetest"
)

func TestFailures(t *testing.T) {
	refused := errors.New("no buffer space available")
	fib := &routetest.FIB{}
	fib.Refuse(dev("10.64.0.1/32", "hf0"), refused)
	fib.Refuse(via("10.9.0.0/16", "10.0.1.0"), refused)
	table, ctx := start(t, fib, routes.Options{})
	table.Set(routes.Endpoints, []routes.Route{dev("10.64.0.1/32", "hf0"), dev("10.64.0.2/32", "hf1")})
	table.Set(routes.Fabric, []routes.Route{via("10.9.0.0/16", "10.0.1.0")})
	idle(ctx, t, table)
	got := func() (out []string) {
		for _, s := range table.Failures(routes.Endpoints) {
			out = append(out, fmt.Sprint(s.Owner, " ", s.Route.Prefix, " ", s.State, " ", errors.Is(s.Err, refused)))
		}
		return out
	}
	if g := fmt.Sprint(got()); g != "[endpoints 10.64.0.1/32 failed true]" {
		t.Errorf("failures %s", g)
	}
	fib.Refuse(dev("10.64.0.1/32", "hf0"), nil)
	if err := table.Upsert(ctx, routes.Endpoints, dev("10.64.0.1/32", "hf0")); err != nil {
		t.Fatal(err)
	}
	if g := got(); len(g) != 0 {
		t.Errorf("failures %s after the kernel took it", g)
	}
}
