package routes_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/routetest"
)

// BenchmarkUpsertDelete is what the table adds to an attach and detach: the fake kernel costs nothing.
func BenchmarkUpsertDelete(b *testing.B) {
	var fib routetest.FIB
	table, _ := start(b, &fib, routes.Options{})
	ctx := context.Background()
	var n atomic.Uint32
	b.RunParallel(func(pb *testing.PB) {
		id := n.Add(1)
		addr := netip.AddrFrom4([4]byte{10, byte(id >> 16), byte(id >> 8), byte(id)})
		r := routes.Route{Prefix: netip.PrefixFrom(addr, 32), NextHops: []routes.NextHop{{Link: "hf0"}}}
		for pb.Next() {
			if err := table.Upsert(ctx, routes.Endpoints, r); err != nil {
				b.Error(err)
			}
			if err := table.Delete(ctx, routes.Endpoints, r.Prefix); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	fib.TakeLog()
}
