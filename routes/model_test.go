package routes_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/routetest"
)

var strength = []routes.Owner{routes.Endpoints, routes.Blocks, routes.Fabric}

// model is what the owners have asked for, with the rules of Table in their plainest form.
type model map[routes.Owner]map[netip.Prefix]routes.Route

// host stands for who made the routes that are not ours.
const host routes.Owner = "host"

// hosts reports whether the host has a route of its own that keeps a learned one of the prefix out.
func (m model) hosts(p netip.Prefix) bool {
	for q, r := range m[host] {
		connected := !r.NextHops[0].Addr.IsValid()
		if q == p || connected && q.Bits() < p.Bits() && q.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

func (m model) String() string {
	have := make(map[routes.Key]routes.Route)
	for _, o := range slices.Backward(strength) {
		for _, r := range m[o] {
			if o != routes.Fabric || !m.hosts(r.Prefix) {
				have[r.Key()] = r
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(have), func(a, b routes.Key) int {
		if c := a.Prefix.Compare(b.Prefix); c != 0 {
			return c
		}
		return int(a.Metric) - int(b.Metric)
	})
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(have[k].String() + "\n")
	}
	return b.String()
}

// TestRandomOperationsConverge drives a table with everything that can happen to it, and compares the kernel with the
// model whenever it is idle.
func TestRandomOperationsConverge(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{Resync: 5 * time.Millisecond})
	m := model{routes.Endpoints: {}, routes.Blocks: {}, routes.Fabric: {}, host: {}}
	random := func() routes.Route {
		p := fmt.Sprintf("10.0.%d.0/24", rnd.IntN(6))
		if rnd.IntN(3) == 0 {
			p = fmt.Sprintf("2001:db8:%d::/48", rnd.IntN(3))
		}
		r := []routes.Route{discard(p), dev(p, "hf1"), via(p, "fe80::1@eth0"), via(p, "fe80::1@eth0", "fe80::2@eth1")}[rnd.IntN(4)]
		r.Metric = uint32(rnd.IntN(2)) * 20
		return r.Canonical()
	}
	syncAll(table)
	for step := range 3000 {
		o, r := strength[rnd.IntN(3)], random()
		switch rnd.IntN(9) {
		case 0:
			if err := table.Upsert(ctx, o, r); err != nil && !errors.Is(err, routes.ErrShadowed) && !errors.Is(err, routes.ErrRefused) {
				t.Fatalf("step %d: %v", step, err)
			}
			m[o][r.Prefix] = r
		case 1:
			if err := table.Delete(ctx, o, r.Prefix); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			delete(m[o], r.Prefix)
		case 2:
			other := random()
			table.Update(o, []routes.Route{r}, []netip.Prefix{other.Prefix})
			delete(m[o], other.Prefix)
			m[o][r.Prefix] = r
		case 3:
			clear(m[o])
			var set []routes.Route
			for range rnd.IntN(4) {
				r := random()
				set, m[o][r.Prefix] = append(set, r), r
			}
			table.Set(o, set)
		case 4:
			fib.Lose(r)
		case 5:
			fib.Put(r)
		case 6:
			fib.Hint()
		case 7:
			idle(ctx, t, table)
		case 8:
			theirs := [...]routes.Route{via(r.Prefix.String(), "fe80::9@lan0"), dev(r.Prefix.String(), "lan0"), dev("10.0.0.0/16", "lan0")}[rnd.IntN(3)]
			theirs.Metric = 9000 // never in the very place of one of ours
			theirs = theirs.Canonical()
			present := rnd.IntN(3) == 0
			fib.PutForeign(theirs, present)
			if delete(m[host], theirs.Prefix); present {
				m[host][theirs.Prefix] = theirs
			}
		}
		if step%50 == 0 {
			eventually(t, fmt.Sprintf("step %d of seed %d: kernel has\n%swant\n%s", step, seed, fib.String(), m), func() bool { return fib.String() == m.String() })
		}
	}
	eventually(t, fmt.Sprintf("everything installed (seed %d)", seed), func() bool {
		return !slices.ContainsFunc(table.Status(), func(s routes.Status) bool {
			return s.State != routes.Installed && !errors.Is(s.Err, routes.ErrShadowed) && !errors.Is(s.Err, routes.ErrRefused)
		})
	})
	eventually(t, fmt.Sprintf("counts agree with what there is (seed %d)", seed), func() bool { return countsAgree(table) })
}

// countsAgree compares what a table has counted with its routes one by one.
func countsAgree(table *routes.Table) bool {
	all, stats := table.Status(), table.Stats()
	states, wanted, amiss := make(map[routes.State]int), make(map[routes.Owner]int), 0
	for i, s := range all { // by prefix and metric, the strongest owner first
		wanted[s.Owner]++
		if s.State == routes.Failed || s.State == routes.Refused {
			amiss++
		}
		if i > 0 && all[i-1].Route.Key() == s.Route.Key() {
			s.State = routes.Pending
		}
		states[s.State]++
	}
	for state := routes.Pending; state <= routes.Refused; state++ {
		if states[state] != stats.States[state] {
			return false
		}
	}
	for _, o := range strength {
		if wanted[o] != stats.Wanted[o] {
			return false
		}
	}
	return len(table.Amiss()) == amiss
}

// TestConcurrentCallers has many containers come and go at once while the fabric changes, as on a busy host.
func TestConcurrentCallers(t *testing.T) {
	var fib routetest.FIB
	table, ctx := start(t, &fib, routes.Options{Resync: 5 * time.Millisecond})
	syncAll(table)
	fabric, stop := context.WithCancel(ctx)
	var churn, callers sync.WaitGroup
	churn.Go(func() {
		for i := 0; fabric.Err() == nil; i++ {
			table.Set(routes.Fabric, []routes.Route{via(fmt.Sprintf("10.%d.0.0/16", i%4), "fe80::1@eth0")})
			fib.Hint()
		}
	})
	for c := range 16 {
		callers.Go(func() {
			r := dev(fmt.Sprintf("10.64.0.%d/32", c), "hf1")
			for range 100 {
				if err := table.Upsert(ctx, routes.Endpoints, r); err != nil {
					t.Error(err)
				}
				if !strings.Contains(fib.String(), r.String()+"\n") {
					t.Errorf("%v not there after Upsert", r)
				}
				if err := table.Delete(ctx, routes.Endpoints, r.Prefix); err != nil {
					t.Error(err)
				}
				if strings.Contains(fib.String(), r.String()+"\n") {
					t.Errorf("%v still there after Delete", r)
				}
			}
		})
	}
	callers.Wait()
	stop()
	churn.Wait()
	idle(ctx, t, table)
}
