package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// simulated is a host that grows and remembers what it was told.
type simulated struct {
	*Source
	target int
	told   []netip.Prefix
	missed func() // called when etcd is away
}

// grow goes on until the host has its target, or the pool is full.
func (h *simulated) grow(ctx context.Context, pool string, progress func()) error {
	for len(h.told) < h.target {
		blocks, err := h.Grow(ctx, ipam.Growth{Pool: pool, Have: h.told})
		switch {
		case errors.Is(err, ipam.ErrSourceAway):
			h.missed()
			continue
		case err != nil:
			return err
		}
		h.told = append(h.told, prefixesOf(blocks)...)
		progress()
	}
	return nil
}

func simulate(f *fabric, n int, pool ipam.Pool, target func(i int) int) []*simulated {
	hosts := make([]*simulated, n)
	for i := range hosts {
		s := newSource(f.t, Config{Endpoints: []string{f.Endpoint()}, Timeout: 2 * time.Second}, fmt.Sprint(i), pool)
		hosts[i] = &simulated{Source: s, target: target(i), missed: func() {}}
	}
	return hosts
}

// checkHosts compares what hosts were told with what etcd has, and returns the sizes of their covers.
func (f *fabric) checkHosts(hosts []*simulated) (covers map[int]int) {
	f.t.Helper()
	inEtcd := f.dump()
	covers = map[int]int{}
	total := 0
	for i, h := range hosts {
		total += len(h.told)
		for _, p := range h.told {
			if inEtcd[p.String()] != h.id.ID {
				f.t.Errorf("host %d was told of %s, which is %q's", i, p, inEtcd[p.String()])
			}
		}
		if blocks := mustBlocks(f.t, h.Source); fmt.Sprint(blocks) != fmt.Sprint(h.told) {
			f.t.Errorf("host %d was told of %v and has %v", i, h.told, blocks)
		}
		covers[len(ipam.Cover(h.told))]++
	}
	if total != len(inEtcd) {
		f.t.Errorf("hosts were told of %d blocks, and %d are claimed", total, len(inEtcd))
	}
	return covers
}

// TestTwoHundredHosts starts and grows 200 hosts at once, with etcd killed and started again meanwhile.
func TestTwoHundredHosts(t *testing.T) {
	const n = 200
	f := newFabric(t)
	pool := ipam.Pool{Name: "fabric", Prefixes: prefixes("10.64.0.0/15"), BaseIPv4: 26} // 2,048 blocks
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// As many hosts of each target: 925 blocks in all, with the 8 of those who want 7.
	order, total := random.Perm(n), 0
	hosts := simulate(f, n, pool, func(i int) int {
		target := 1 + order[i]%8
		total += target
		return target
	})
	var done atomic.Int64
	halfway := make(chan struct{})
	progress := func() {
		if done.Add(1) == int64(total/2) {
			close(halfway)
		}
	}
	var away atomic.Int64
	missed := make(chan struct{})
	start := time.Now()
	var wg sync.WaitGroup
	for i, h := range hosts {
		h.missed = func() {
			if away.Add(1) == 1 {
				close(missed)
			}
		}
		wg.Go(func() {
			if err := h.grow(t.Context(), "fabric", progress); err != nil {
				t.Errorf("host %d: %v", i, err)
			}
		})
	}
	<-halfway
	f.Kill()
	<-missed
	f.Restart()
	wg.Wait()
	took := time.Since(start)

	covers := f.checkHosts(hosts)
	sizes := map[int]int{}
	for _, h := range hosts {
		sizes[len(h.told)]++
	}
	claimed := len(f.dump())
	if claimed*2 >= 2048 {
		t.Errorf("%d blocks are claimed: the pool should stay under half full", claimed)
	}
	for _, prefixes := range slices.Sorted(maps.Keys(covers)) {
		if prefixes > 2 {
			t.Errorf("%d hosts have %d prefixes", covers[prefixes], prefixes)
		}
	}
	t.Logf("%d of 2048 blocks in %s, %d calls found etcd away; hosts by prefixes %v, by blocks %v", claimed, took.Round(time.Millisecond), away.Load(), covers, sizes)
}

func TestPoolGetsFull(t *testing.T) {
	f := newFabric(t)
	pool := ipam.Pool{Name: "fabric", Prefixes: prefixes("10.64.0.0/25", "10.65.0.0/25"), BaseIPv4: 29} // 32 blocks
	hosts := simulate(f, 20, pool, func(int) int { return 32 })
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			err := h.grow(t.Context(), "fabric", func() {})
			if !errors.Is(err, ipam.ErrPoolFull) {
				t.Errorf("host %d: %v", i, err)
			} else if i == 0 {
				t.Log(err)
			}
		})
	}
	wg.Wait()
	f.checkHosts(hosts)
	if n := len(f.dump()); n != 32 {
		t.Errorf("%d of 32 blocks are claimed", n)
	}
	// What is given back can be had.
	rich := slices.IndexFunc(hosts, func(h *simulated) bool { return len(h.told) > 0 })
	given := hosts[rich].told[0]
	if err := hosts[rich].Release(t.Context(), []netip.Prefix{given}); err != nil {
		t.Fatal(err)
	}
	other := hosts[(rich+1)%len(hosts)]
	blocks, err := other.Grow(t.Context(), ipam.Growth{Pool: "fabric", Have: other.told})
	if err != nil || len(blocks) != 1 || blocks[0].Prefix != given {
		t.Errorf("got %v, %v, want %s", blocks, err, given)
	}
}

// Hosts that come one after the other fill the pool in bit-reversal order.
func TestUncontendedPlacementIsInOrder(t *testing.T) {
	f := newFabric(t)
	var got []netip.Prefix
	for i := range 6 {
		got = append(got, mustGrow(t, f.host(fmt.Sprint(i), small))...)
	}
	wantPrefixes(t, got, "10.64.0.0/26", "10.64.2.0/26", "10.64.1.0/26", "10.64.3.0/26", "10.64.0.128/26", "10.64.2.128/26")
}
