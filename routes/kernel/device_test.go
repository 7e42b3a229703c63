package kernel_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

// container makes a link as a container has it and returns the routes onto it.
func (r rack) container(i int) (link string, rs []routes.Route) {
	r.t.Helper()
	link = fmt.Sprintf("hf%d", i)
	r.ip(r.host, "link", "add", link, "type", "veth", "peer", "name", "peer"+link)
	for _, end := range []string{link, "peer" + link} {
		r.ip(r.host, "link", "set", end, "addrgenmode", "none") // before it is up: addresses that come and go are hints
		r.ip(r.host, "link", "set", end, "up")
	}
	return link, []routes.Route{dev(fmt.Sprintf("10.64.0.%d/32", i), link), dev(fmt.Sprintf("2001:db8:64::%x/128", i), link)}
}

func TestContainersComingAndGoingCauseNoListing(t *testing.T) {
	for name, leave := range map[string]func(r rack, link string, detach func()){
		"runtime deletes the namespace first": func(r rack, link string, detach func()) {
			r.ip(r.host, "link", "del", link)
			detach()
		},
		"detach": func(r rack, link string, detach func()) {
			detach()
			r.ip(r.host, "link", "set", link, "down")
			r.ip(r.host, "link", "del", link)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRack(t)
			table, fib := r.table(routes.Options{Resync: time.Hour})
			table.Set(routes.Fabric, []routes.Route{via("0.0.0.0/0", "192.0.2.1", "192.0.2.3"), via("::/0", "2001:db8::1", "2001:db8::3")})
			idle(t, table)
			eventually(t, "quiet after the uplinks' first events", func() bool {
				_, before := fib.counts()
				<-time.After(200 * time.Millisecond)
				_, after := fib.counts()
				return before == after
			})
			_, before := fib.counts()
			for i := range 20 {
				link, rs := r.container(i)
				upsert(t, table, rs...)
				leave(r, link, func() {
					for _, route := range rs {
						if err := table.Delete(t.Context(), routes.Endpoints, route.Prefix); err != nil {
							t.Fatal(err)
						}
					}
				})
			}
			if _, after := fib.counts(); after-before > 2 {
				t.Errorf("20 containers caused %d listings", after-before)
			}
			if got := r.ip(r.host, "route", "show", "proto", "176") + r.ip(r.host, "-6", "route", "show", "proto", "176"); strings.Contains(got, "hf") {
				t.Errorf("left:\n%s", got)
			}
		})
	}
}

func upsert(t testing.TB, table *routes.Table, rs ...routes.Route) {
	t.Helper()
	for _, route := range rs {
		if err := table.Upsert(t.Context(), routes.Endpoints, route); err != nil {
			t.Fatal(err)
		}
	}
}

// all reports whether every wanted route is in the state, for a reason that says why.
func all(table *routes.Table, state routes.State, why string) func() bool {
	return func() bool {
		for _, s := range table.Status() {
			if s.State != state || !strings.Contains(fmt.Sprint(s.Err), why) {
				return false
			}
		}
		return true
	}
}

func TestHostRouteFailsAndReturnsWithItsLink(t *testing.T) {
	r := newRack(t)
	table, fib := r.table(routes.Options{Resync: time.Hour})
	link, rs := r.container(5)
	upsert(t, table, rs...)
	there := func() bool {
		return r.ip(r.host, "route", "show", "10.64.0.5") != "" && r.ip(r.host, "-6", "route", "show", "2001:db8:64::5") != ""
	}
	for range 3 {
		r.ip(r.host, "link", "set", link, "down")
		begin := time.Now()
		eventually(t, "told that the link is down", all(table, routes.Failed, "down"))
		t.Logf("told after %v", time.Since(begin))
		quiet(t, fib)
		r.ip(r.host, "link", "set", link, "up")
		begin = time.Now()
		eventually(t, "told that it is up", all(table, routes.Installed, ""))
		t.Logf("back after %v", time.Since(begin))
		if !there() {
			t.Fatal("installed, but not in the kernel")
		}
	}
	r.ip(r.host, "link", "del", link)
	eventually(t, "told that the link is gone", all(table, routes.Failed, "does not exist"))
	r.container(5)
	eventually(t, "back with a link of the same name", all(table, routes.Installed, ""))
}

// TestHintsOfDeviceRoutes looks for the hint itself: a table would get there by trying again, only later.
func TestHintsOfDeviceRoutes(t *testing.T) {
	r := rack{t: t, host: nstest.New(t, "host")} // without uplinks, whose addresses give hints of their own
	f := r.fib(kernel.Options{})
	hints, err := f.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hinted := func(what string) {
		t.Helper()
		select {
		case <-hints.Own:
		case <-time.After(patience):
			t.Fatalf("no hint: %s", what)
		}
	}
	silent := func(what string) {
		t.Helper()
		select {
		case <-hints.Own:
			t.Fatalf("hint: %s", what)
		case <-time.After(300 * time.Millisecond):
		}
	}
	link, rs := r.container(1)
	silent("a container's link comes")
	apply(t, f, routes.Add, rs...)
	r.ip(r.host, "link", "set", link, "mtu", "1400")
	silent("a container's link changes")
	r.ip(r.host, "link", "set", link, "down")
	hinted("link down")
	r.ip(r.host, "link", "set", link, "mtu", "1500")
	silent("link changes while down")
	r.ip(r.host, "link", "set", "peer"+link, "down")
	r.ip(r.host, "link", "set", link, "up")
	hinted("link up, without carrier: a route can be there")
	apply(t, f, routes.Add, rs...)
	r.ip(r.host, "link", "set", "peer"+link, "up")
	silent("carrier, which such a route does not need")
	r.ip(r.host, "link", "del", link)
	hinted("link deleted under its routes")

	// A route that a link which is down never had.
	r.ip(r.host, "link", "add", "hf2", "type", "veth", "peer", "name", "peerhf2")
	if errs := f.Apply(t.Context(), []routes.Change{{Op: routes.Add, Route: dev("10.64.0.2/32", "hf2")}}); errs[0] == nil {
		t.Fatal("route on a link that is down: accepted")
	}
	r.ip(r.host, "link", "set", "hf2", "up")
	hinted("first up of a link whose route was refused")
	apply(t, f, routes.Add, dev("10.64.0.2/32", "hf2"))
	apply(t, f, routes.Delete, routes.Route{Prefix: netip.MustParsePrefix("10.64.0.2/32")})
	r.ip(r.host, "link", "set", "hf2", "down")
	silent("link without routes goes down")
}
