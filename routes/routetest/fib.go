// Package routetest has a kernel table in memory for tests of whatever uses routes.Table.
package routetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hostfabric/hostfabric/routes"
)

// FIB is a routes.FIB in memory. Its String is what `ip route` would print. The zero value is an empty table.
type FIB struct {
	mu      sync.Mutex // guards all below
	ours    map[routes.Key]routes.Route
	foreign map[routes.Key]routes.Route
	refuse  map[routes.Key]error
	log     []string
	applies int
	lists   int
	hints   []chan struct{}
	others  []chan struct{} // hints of foreign routes
}

var _ routes.FIB = (*FIB)(nil)

// List implements routes.FIB.
func (f *FIB) List(ctx context.Context) ([]routes.Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	return slices.Collect(maps.Values(f.ours)), ctx.Err()
}

// Apply implements routes.FIB.
func (f *FIB) Apply(_ context.Context, changes []routes.Change) []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applies++
	errs := make([]error, len(changes))
	for i, c := range changes {
		if errs[i] = f.apply(c); errs[i] == nil {
			f.log = append(f.log, c.String())
		}
	}
	return errs
}

func (f *FIB) apply(c routes.Change) error {
	r := c.Route.Canonical()
	_, ours := f.ours[r.Key()]
	_, foreign := f.foreign[r.Key()]
	err := f.refuse[r.Key()]
	switch {
	case c.Op == routes.Delete:
		delete(f.ours, r.Key())
		return nil
	case c.Op == routes.Add && (ours || foreign):
		return routes.ErrExists
	case c.Op == routes.Replace && !ours:
		return routes.ErrGone
	case err != nil:
		return err
	}
	if f.ours == nil {
		f.ours = make(map[routes.Key]routes.Route)
	}
	f.ours[r.Key()] = r
	return nil
}

// Foreign implements routes.FIB.
func (f *FIB) Foreign(ctx context.Context) ([]routes.Foreign, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []routes.Foreign
	for _, r := range f.foreign {
		o := routes.Foreign{Prefix: r.Prefix.Masked(), Protocol: "static", Metric: r.Metric}
		if len(r.NextHops) == 1 {
			o.Gateway, o.Link = r.NextHops[0].Addr, r.NextHops[0].Link
		}
		if o.Connected = !o.Gateway.IsValid() && o.Link != ""; o.Connected {
			o.Protocol = "kernel"
		}
		list = append(list, o)
	}
	return list, ctx.Err()
}

// Watch implements routes.FIB.
func (f *FIB) Watch(context.Context) (routes.Hints, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hint, other := make(chan struct{}, 1), make(chan struct{}, 1)
	f.hints, f.others = append(f.hints, hint), append(f.others, other)
	return routes.Hints{Own: hint, Foreign: other}, nil
}

// Hint sends a hint to every watcher.
func (f *FIB) Hint() {
	f.mu.Lock()
	defer f.mu.Unlock()
	wake(f.hints)
}

func wake(hints []chan struct{}) {
	for _, hint := range hints {
		select {
		case hint <- struct{}{}:
		default:
		}
	}
}

// Put installs routes as an earlier run would have left them.
func (f *FIB) Put(rs ...routes.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ours == nil {
		f.ours = make(map[routes.Key]routes.Route)
	}
	for _, r := range rs {
		f.ours[r.Canonical().Key()] = r.Canonical()
	}
}

// Lose removes a route as the kernel or an administrator does, without a hint.
func (f *FIB) Lose(r routes.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ours, r.Canonical().Key())
}

// PutForeign installs another program's route, or removes it again when present is false, with a hint. One directly onto a
// link is the kernel's.
func (f *FIB) PutForeign(r routes.Route, present bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.foreign == nil {
		f.foreign = make(map[routes.Key]routes.Route)
	}
	delete(f.foreign, r.Canonical().Key())
	if present {
		f.foreign[r.Canonical().Key()] = r.Canonical()
	}
	wake(f.others)
}

// Refuse has the route's prefix and metric fail with err, or work again when err is nil.
func (f *FIB) Refuse(r routes.Route, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse == nil {
		f.refuse = make(map[routes.Key]error)
	}
	f.refuse[r.Canonical().Key()] = err
}

// TakeLog returns the changes made since the last call, one a line.
func (f *FIB) TakeLog() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return strings.Join(log, "\n")
}

// Calls returns how often Apply and List have been called.
func (f *FIB) Calls() (applies, lists int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applies, f.lists
}

// String prints our routes, sorted by prefix and metric.
func (f *FIB) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	rs := slices.SortedFunc(maps.Values(f.ours), func(a, b routes.Route) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Metric, b.Metric))
	})
	var b strings.Builder
	for _, r := range rs {
		b.WriteString(r.String() + "\n")
	}
	return b.String()
}
