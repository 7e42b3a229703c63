package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

// counting counts what the table asks of the kernel.
type counting struct {
	*kernel.FIB
	changes, lists chan int
}

func (c counting) Apply(ctx context.Context, changes []routes.Change) []error {
	c.changes <- <-c.changes + len(changes)
	return c.FIB.Apply(ctx, changes)
}

func (c counting) List(ctx context.Context) ([]routes.Route, error) {
	c.lists <- <-c.lists + 1
	return c.FIB.List(ctx)
}

func (c counting) counts() (changes, lists int) {
	changes, lists = <-c.changes, <-c.lists
	c.changes <- changes
	c.lists <- lists
	return changes, lists
}

// table runs a routes.Table over the rack's kernel until the test ends.
func (r rack) table(opts routes.Options) (*routes.Table, counting) {
	r.t.Helper()
	fib := counting{r.fib(kernel.Options{}), make(chan int, 1), make(chan int, 1)}
	fib.changes <- 0
	fib.lists <- 0
	table := routes.NewTable(fib, opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	for _, o := range []routes.Owner{routes.Blocks, routes.Endpoints, routes.Fabric} {
		table.Synced(o)
	}
	return table, fib
}

func (r rack) carrier(tor int, state string) {
	r.t.Helper()
	r.ip(r.tor[tor], "link", "set", "down0", state)
}

func idle(t testing.TB, table *routes.Table) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := table.WaitIdle(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestCarrierLossAndReturn(t *testing.T) {
	r := newRack(t)
	table, fib := r.table(routes.Options{Resync: time.Hour})
	const n = 200
	var rs []routes.Route
	for i := range n {
		rs = append(rs, via(fmt.Sprintf("10.0.%d.0/24", i), "192.0.2.1", "192.0.2.3"), via(fmt.Sprintf("2001:db8:%x::/48", i+1), "2001:db8::1", "2001:db8::3"))
	}
	table.Set(routes.Fabric, rs)
	idle(t, table)
	written, _ := fib.counts()
	if written != 2*n {
		t.Fatalf("%d changes for %d routes", written, 2*n)
	}
	legs := func(want ...string) func() bool {
		return func() bool {
			got := r.ip(r.host, "route", "show", "10.0.7.0/24") + r.ip(r.host, "-6", "route", "show", "2001:db8:8::/48")
			return strings.Count(got, "192.0.2.1 ") == strings.Count(strings.Join(want, " "), "eth0") &&
				strings.Count(got, "192.0.2.3 ") == strings.Count(strings.Join(want, " "), "eth1") &&
				strings.Count(got, "2001:db8::1 ") == strings.Count(strings.Join(want, " "), "eth0") &&
				strings.Count(got, "2001:db8::3 ") == strings.Count(strings.Join(want, " "), "eth1")
		}
	}
	eventually(t, "both legs", legs("eth0", "eth1"))
	for range 3 {
		r.carrier(0, "down")
		eventually(t, "one leg", legs("eth1"))
		r.carrier(0, "up")
		begin := time.Now()
		eventually(t, "both legs again", legs("eth0", "eth1"))
		t.Logf("leg back %v after its carrier", time.Since(begin))
	}
	idle(t, table)
	// The groups did it: not one prefix was written again.
	if again, _ := fib.counts(); again != written {
		t.Errorf("%d changes for three flaps of one link", again-written)
	}
	r.carrier(0, "down")
	r.carrier(1, "down")
	eventually(t, "no routes", func() bool { return r.ip(r.host, "route", "show", "proto", "176") == "" })
	eventually(t, "told so", func() bool { return table.Status()[0].State == routes.Failed })
	quiet(t, fib)
	r.carrier(1, "up")
	eventually(t, "one leg after none", legs("eth1"))
	r.carrier(0, "up")
	eventually(t, "both legs after none", legs("eth0", "eth1"))
	eventually(t, "all installed", func() bool {
		for _, s := range table.Status() {
			if s.State != routes.Installed {
				return false
			}
		}
		return true
	})
}

// quiet fails if the table works the kernel hard while there is nothing it could do.
func quiet(t testing.TB, fib counting) {
	t.Helper()
	_, before := fib.counts()
	<-time.After(500 * time.Millisecond)
	if _, after := fib.counts(); after-before > 10 {
		t.Errorf("%d listings in half a second with the links down", after-before)
	}
}

func TestDeletedRoutesAndNextHopsComeBack(t *testing.T) {
	r := newRack(t)
	table, _ := r.table(routes.Options{Resync: time.Hour})
	table.Set(routes.Fabric, []routes.Route{via("0.0.0.0/0", "192.0.2.1", "192.0.2.3")})
	table.Set(routes.Blocks, []routes.Route{discard("10.64.0.0/26")})
	idle(t, table)
	whole := func() bool {
		got := r.ip(r.host, "route", "show", "proto", "176")
		return strings.Contains(got, "192.0.2.1") && strings.Contains(got, "192.0.2.3") && strings.Contains(got, "blackhole 10.64.0.0/26")
	}
	eventually(t, "installed", whole)
	for _, cmd := range []string{
		"route del default", "route del blackhole 10.64.0.0/26", "nexthop flush proto 176", "link set eth0 down",
	} {
		r.ip(r.host, strings.Fields(cmd)...)
		if strings.HasPrefix(cmd, "link") {
			r.ip(r.host, "link", "set", "eth0", "up")
		}
		eventually(t, "repaired after ip "+cmd, whole)
	}
	r.ip(r.host, "route", "add", "10.99.0.0/16", "via", "192.0.2.1", "proto", "176")
	eventually(t, "stranger pruned", func() bool { return r.ip(r.host, "route", "show", "10.99.0.0/16") == "" })
}

func TestRoutesReturnWithASuspendedNextHop(t *testing.T) {
	r := newRack(t)
	table, fib := r.table(routes.Options{Resync: time.Hour})
	if err := table.Upsert(t.Context(), routes.Fabric, via("2001:db8:1::/48", "2001:db8::1")); err != nil {
		t.Fatal(err)
	}
	tor := netip.MustParseAddr("2001:db8::1")
	for _, suspended := range []bool{true, false} {
		if err := fib.Suspend(suspended, tor); err != nil {
			t.Fatal(err)
		}
		want := routes.Installed
		if suspended {
			want = routes.Failed
		}
		eventually(t, want.String(), func() bool { return table.Status()[0].State == want })
	}
}
