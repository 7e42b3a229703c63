package etcd

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// The connection breaks when a transaction was made but not answered.
func TestAnswerIsLost(t *testing.T) {
	f := newFabric(t)
	p := newProxy(t, f.Endpoint())
	h := newSource(t, Config{Endpoints: []string{p.endpoint()}}, "a", small)
	have := mustGrow(t, h)
	watch := f.client.Watch(t.Context(), DefaultPrefix+"/claims/", clientv3.WithPrefix())
	var wg sync.WaitGroup
	wg.Go(func() {
		<-watch // it is made
		p.cut()
	})
	blocks, err := h.Grow(t.Context(), ipam.Growth{Have: have, Fits: func([]netip.Prefix) error { p.hold(false, true); return nil }})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	wantPrefixes(t, prefixesOf(blocks), "10.64.0.64/26")
	f.wantClaims(map[string]string{"10.64.0.0/26": "a", "10.64.0.64/26": "a"})
}

// applied counts the transactions that etcd has got, those included whose conditions failed.
func (f *fabric) applied() uint64 {
	f.t.Helper()
	status, err := f.client.Status(f.t.Context(), f.Endpoint())
	if err != nil {
		f.t.Fatal(err)
	}
	return status.RaftAppliedIndex
}

// The connection breaks with a transaction on the way, which arrives long after.
func TestTransactionIsLate(t *testing.T) {
	for name, retried := range map[string]bool{"after the retry": true, "before the next growth": false} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t)
			p := newProxy(t, f.Endpoint())
			h := newSource(t, Config{Endpoints: []string{p.endpoint()}}, "a", small)
			have := mustGrow(t, h)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				p.awaitClaim()
				if !retried {
					cancel()
				}
				p.cut()
			})
			hold := sync.OnceFunc(func() { p.hold(true, false) })
			fits := func([]netip.Prefix) error { hold(); return nil }
			blocks, err := h.Grow(ctx, ipam.Growth{Have: have, Fits: fits})
			wg.Wait()
			if retried != (err == nil) {
				t.Fatal(blocks, err)
			}
			if !retried {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				f.wantCount(1)
			}
			before := f.applied()
			p.letGo()
			eventually(t, 20*time.Second, func() error {
				if f.applied() == before {
					return errors.New("the late transaction has not arrived")
				}
				return nil
			})
			f.wantCount(2)
			if !retried {
				if blocks, err = h.Grow(t.Context(), ipam.Growth{Have: have}); err != nil {
					t.Fatal(err)
				}
			}
			wantPrefixes(t, prefixesOf(blocks), "10.64.0.64/26")
			have = append(have, prefixesOf(blocks)...)
			wantPrefixes(t, mustGrow(t, h, have...), "10.64.0.128/26")
			f.wantClaims(map[string]string{"10.64.0.0/26": "a", "10.64.0.64/26": "a", "10.64.0.128/26": "a"})
		})
	}
}

// The host gave up on a transaction that is still on its way. The next growth claims the same block, though it would prefer
// another by now, so that only one of the two can succeed.
func TestUnsettledGrowthIsRepeated(t *testing.T) {
	f := newFabric(t)
	p := newProxy(t, f.Endpoint())
	h := newSource(t, Config{Endpoints: []string{p.endpoint()}}, "a", small)
	have := mustGrow(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		p.awaitClaim()
		cancel()
		p.cut()
	})
	_, err := h.Grow(ctx, ipam.Growth{Have: have, Fits: func(added []netip.Prefix) error {
		if added[0] == netip.MustParsePrefix("10.64.0.64/26") {
			return ipam.ErrBudget
		}
		p.hold(true, false)
		return nil
	}})
	wg.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	have = append(have, mustGrow(t, h, have...)...)
	wantPrefixes(t, have, "10.64.0.0/26", "10.64.2.0/26")
	p.letGo()
	have = append(have, mustGrow(t, h, have...)...)
	wantPrefixes(t, have, "10.64.0.0/26", "10.64.2.0/26", "10.64.0.64/26")
	f.wantCount(3)
}
