package ipam

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// One cycle is a durable allocation and release. BenchmarkFloor is the two bare writes that such a cycle needs; the
// ratio of the two is what the allocator itself costs.
func BenchmarkAllocateRelease(b *testing.B) {
	for _, tc := range []struct {
		name   string
		blocks []string
		held   int
	}{
		{"ipv4-24", []string{"10.1.0.0/24"}, 0},
		{"ipv4-16-5000-held", []string{"10.1.0.0/16"}, 5000},
		{"ipv6-64", []string{"fd00::/64"}, 0},
		{"dual", []string{"10.1.0.0/24", "fd00::/64"}, 0},
	} {
		b.Run(tc.name, func(b *testing.B) {
			a := benchAllocator(b, tc.blocks)
			for i := range tc.held {
				if _, err := a.Allocate(testKey(fmt.Sprintf("held%d", i)), Request{}); err != nil {
					b.Fatal(err)
				}
			}
			keys := benchKeys(1000)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				cycle(b, a, keys[i%len(keys)])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "cycles/s")
		})
	}
}

func BenchmarkAllocateReleaseParallel(b *testing.B) {
	a := benchAllocator(b, []string{"10.1.0.0/16"})
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		key := testKey(fmt.Sprintf("%p", pb))
		for pb.Next() {
			cycle(b, a, key)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "cycles/s")
}

// BenchmarkSetInUse changes what something else uses, on a host that knows 5,000 addresses; unchanged is what an agent
// says at most looks.
func BenchmarkSetInUse(b *testing.B) {
	a := benchAllocator(b, []string{"10.1.0.0/16", "fd00::/64"})
	for _, key := range benchKeys(5000) {
		if _, err := a.Allocate(key, Request{}); err != nil {
			b.Fatal(err)
		}
	}
	sets := [][]InUse{inUse("10.1.0.1/32", "10.1.0.9/32", "fd00::1/128"), inUse("10.1.0.1/32", "fd00::1/128")}
	for name, step := range map[string]int{"unchanged": 0, "changed": 1} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i += step {
				a.SetInUse(sets[i%2])
			}
		})
	}
}

func BenchmarkFloor(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "leases"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := (osFile{f}).Extend(headerSize + chunk*slotSize); err != nil {
		b.Fatal(err)
	}
	var buf slotBuf
	for i := 0; b.Loop(); i++ {
		buf[0] = byte(i)
		for range 2 {
			if _, err := f.WriteAt(buf[:], headerSize+int64(i%256)*slotSize); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "cycles/s")
}

// BenchmarkMemory tells what an address costs that was used once, and stays known.
func BenchmarkMemory(b *testing.B) {
	const addresses = freshLimit
	for b.Loop() {
		a := benchAllocator(b, []string{"10.1.0.0/16"})
		before := heap()
		for i := range addresses {
			cycle(b, a, testKey(fmt.Sprintf("%064x", i)))
		}
		b.ReportMetric(float64(heap()-before)/addresses, "B/address")
		runtime.KeepAlive(a)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func benchAllocator(b *testing.B, blocks []string) *Allocator {
	b.Helper()
	a, err := Open(filepath.Join(b.TempDir(), "leases"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := a.SetBlocks(testBlocks(blocks...)); err != nil {
		b.Fatal(err)
	}
	return a
}

func benchKeys(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = testKey(fmt.Sprintf("%064x", i))
	}
	return keys
}

func cycle(b *testing.B, a *Allocator, key Key) {
	if _, err := a.Allocate(key, Request{}); err != nil {
		b.Fatal(err)
	}
	if _, err := a.Release(key); err != nil {
		b.Fatal(err)
	}
}
