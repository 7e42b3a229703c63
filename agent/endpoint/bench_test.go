package endpoint_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
)

// boxes makes namespaces ahead of a measurement.
func boxes(b *testing.B, host netns.NS, n int) []netns.NS {
	b.Helper()
	all := make([]netns.NS, n)
	for i := range all {
		var err error
		if all[i], err = netns.Create(fmt.Sprintf("%s-%d", host.Name, i)); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { all[i].Delete() })
	}
	return all
}

func benchmarkWire(b *testing.B, addrs ...string) {
	w, host := newWirer(b)
	all := boxes(b, host, b.N)
	b.ResetTimer()
	for i, box := range all {
		wire(b, w, spec(box, fmt.Sprint(i), addrs...))
	}
}

// BenchmarkWire is one endpoint after another, without making the namespace.
func BenchmarkWire(b *testing.B) {
	b.Run("IPv4", func(b *testing.B) { benchmarkWire(b, "10.64.0.5") })
	b.Run("both", func(b *testing.B) { benchmarkWire(b, "10.64.0.5", "2001:db8:64::5") })
}

// BenchmarkRetire is amortised until every link is gone.
func BenchmarkRetire(b *testing.B) {
	w, host := newWirer(b)
	stop := run(b, w)
	for i, box := range boxes(b, host, b.N) {
		wire(b, w, spec(box, fmt.Sprint(i), "10.64.0.5"))
	}
	gone := make([]<-chan struct{}, b.N)
	b.ResetTimer()
	for i := range gone {
		var err error
		if gone[i], err = w.Retire(context.Background(), endpoint.HostLink(fmt.Sprint(i), "eth0"), nil); err != nil {
			b.Fatal(err)
		}
	}
	for _, g := range gone {
		await(b, g)
	}
	b.StopTimer()
	stop()
}

// BenchmarkList is of hosts with few and many endpoints, each with an address of both families.
func BenchmarkList(b *testing.B) {
	w, host := newWirer(b)
	all := boxes(b, host, 1000)
	have := 0
	for _, n := range []int{10, len(all)} {
		for ; have < n; have++ {
			wire(b, w, spec(all[have], fmt.Sprint(have), fmt.Sprintf("10.64.%d.%d", have>>8, have&0xff), fmt.Sprintf("2001:db8:64::%x", have+1)))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if live, err := w.List(context.Background()); err != nil || len(live) != n {
					b.Fatalf("listed %d, %v", len(live), err)
				}
			}
		})
	}
}
