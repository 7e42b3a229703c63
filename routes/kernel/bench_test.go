package kernel_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

func prefixes(n int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	return all
}

// BenchmarkTable100k is a feed of 100,000 ECMP routes until the kernel has the last, in ms; the listing that looks for
// drift among them; their withdrawal; and one route of a container while they are being written, the worst of many.
func BenchmarkTable100k(b *testing.B) {
	const n = 100_000
	r := newRack(b)
	fib := r.fib(kernel.Options{Log: slog.New(slog.DiscardHandler)})
	table := routes.NewTable(fib, routes.Options{Resync: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	all := prefixes(n)
	hops := via("0.0.0.0/0", "192.0.2.1", "192.0.2.3").NextHops
	feed := make([]routes.Route, n)
	for i, p := range all {
		feed[i] = routes.Route{Prefix: p, NextHops: hops}
	}
	total := make(map[string]time.Duration)
	measure := func(unit string, fn func() error) {
		begin := time.Now()
		if err := fn(); err != nil {
			b.Fatal(err)
		}
		total[unit] += time.Since(begin)
	}
	idle := func() error { return table.WaitIdle(ctx) }
	var worst time.Duration
	for b.Loop() {
		if err := idle(); err != nil {
			b.Fatal(err)
		}
		measure("install-ms", func() error {
			table.Update(routes.Fabric, feed, nil)
			idled := make(chan error, 1)
			go func() { idled <- idle() }()
			for {
				select {
				case err := <-idled:
					return err
				default:
				}
				begin := time.Now()
				if err := table.Upsert(ctx, routes.Endpoints, dev("10.64.0.5/32", "eth0")); err != nil {
					return err
				}
				worst = max(worst, time.Since(begin))
			}
		})
		measure("list-ms", func() error { _, err := fib.List(ctx); return err })
		measure("suspend-ms", func() error { return fib.Suspend(true, hops[0].Addr) })
		measure("resume-ms", func() error { return fib.Suspend(false, hops[0].Addr) })
		measure("withdraw-ms", func() error { table.Update(routes.Fabric, nil, all); return idle() })
	}
	for unit, d := range total {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), unit)
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "urgent-worst-ms")
}
