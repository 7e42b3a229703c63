// Package kernel is the routes.FIB of a Linux network namespace.
//
// Routes with gateways refer to kernel nexthop objects: one group per distinct set of next hops, shared by every
// route that has it, its legs shared between groups. The set a group stands for is remembered here; what the kernel's
// group has at the moment is what of the set is usable. When a link loses its carrier the kernel removes its legs from
// every group, or the group and with it the routes when no leg is left, and tells nobody. When a link comes back, or a
// next hop is suspended, one message for each group moves every prefix.
package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

const (
	// Protocol is rtnl.Protocol, which marks our routes and nexthops.
	Protocol = rtnl.Protocol
	// ProtocolName is its name in /etc/iproute2/rt_protos.d.
	ProtocolName = "hostfabric"
	// MainTable is the routing table used unless told otherwise.
	MainTable = unix.RT_TABLE_MAIN
)

// Options of a FIB. The zero value is what the agent uses.
type Options struct {
	Protocol int // 0: Protocol
	Table    int // 0: MainTable
	Log      *slog.Logger
}

// FIB is the routing table of the network namespace it was made in. Its methods may be called from any goroutine.
type FIB struct {
	opts  Options
	log   *slog.Logger
	home  *os.File // the network namespace
	conn  *rtnl.Conn
	links *links
	hints chan struct{} // size 1
	// foreign has a lock of its own. It may be taken while mu is held, and not the other way.
	foreign *foreign

	mu   sync.Mutex // guards all below, and one operation on the kernel
	hops *hops
	uses uses
	// running is whether a link that next hops are on ran at its last event. Links never heard of are not in it.
	running map[string]bool
	closed  bool
}

var _ routes.FIB = (*FIB)(nil)

// New opens the routing table of the calling thread's network namespace. The FIB stays with that namespace.
func New(opts Options) (*FIB, error) {
	opts.Protocol = cmp.Or(opts.Protocol, Protocol)
	opts.Table = cmp.Or(opts.Table, MainTable)
	if opts.Protocol <= unix.RTPROT_STATIC || opts.Protocol > 255 {
		return nil, fmt.Errorf("route protocol %d: must be between %d and 255", opts.Protocol, unix.RTPROT_STATIC+1)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	f := &FIB{opts: opts, log: opts.Log, uses: newUses(), running: make(map[string]bool), hints: make(chan struct{}, 1), foreign: newForeign()}
	var err error
	if f.home, err = rtnl.ThreadNamespace(); err != nil {
		return nil, err
	}
	if f.conn, err = rtnl.Open(); err != nil {
		return nil, errors.Join(err, f.home.Close())
	}
	if f.links, err = openLinks(); err != nil {
		return nil, errors.Join(err, f.conn.Close(), f.home.Close())
	}
	f.hops = newHops(f.conn, f.links, uint8(opts.Protocol), f.log)
	return f, nil
}

// Close releases the sockets, but for a Watch's, which goes with its context. Routes and nexthops stay in the kernel.
func (f *FIB) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return errors.Join(f.links.close(), f.conn.Close(), f.home.Close())
}

// List implements routes.FIB. It first brings the nexthop groups in line with the links, and afterwards removes those
// that nothing uses. A route's next hops are those its group stands for, whether or not all are usable now.
func (f *FIB) List(ctx context.Context) ([]routes.Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.hops.sync(); err != nil {
		return nil, err
	}
	now := time.Now()
	var all []routes.Route
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rs, err := f.dump(family, now)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		all = append(all, rs...)
	}
	f.uses.forget(now)
	return all, f.hops.collect(f.uses.groups())
}

// dump lists one family. The library's RouteListFiltered knows nothing of nexthop objects, nor lets the kernel filter
// by protocol.
func (f *FIB) dump(family uint8, now time.Time) ([]routes.Route, error) {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Route(rtnl.RouteHeader{Family: family, Table: f.opts.Table, Protocol: uint8(f.opts.Protocol)})
	if f.opts.Table > 255 {
		b.Uint32(unix.RTA_TABLE, uint32(f.opts.Table))
	}
	var all []routes.Route
	names, sets := make(map[int]string), f.hops.sets()
	err := f.conn.Dump(&b, func() { all = all[:0] }, func(m rtnl.Message) {
		raw, ok := parseRoute(m)
		if !ok || raw.table != f.opts.Table || raw.protocol != uint8(f.opts.Protocol) {
			return
		}
		r := raw.route
		u := use{group: raw.group, shape: raw.shape, at: now}
		switch {
		case raw.group != 0:
			r.NextHops = sets[raw.group]
		case raw.index != 0:
			name, known := names[raw.index]
			if !known {
				name = f.links.name(raw.index)
				names[raw.index] = name
			}
			r.NextHops = []routes.NextHop{{Addr: raw.gateway, Link: name, Onlink: raw.onlink}}
			u.link = name
		}
		f.uses.set(r.Key(), u)
		all = append(all, r)
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // no such table yet; no such family in this kernel
	}
	return all, err
}

// Apply implements routes.FIB. Next hops on links without carrier are left out and come back with it; a route none of
// whose next hops is usable fails. Only routes that this FIB has listed or written are deleted.
func (f *FIB) Apply(ctx context.Context, changes []routes.Change) []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := make([]error, len(changes))
	if err := ctx.Err(); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	todo := make([]int, len(changes))
	for i := range todo {
		todo[i] = i
	}
	if again := f.send(changes, todo, errs); len(again) > 0 {
		if err := f.hops.sync(); err != nil {
			f.log.Warn("cannot bring nexthops in line", "error", err)
			return errs
		}
		f.send(changes, again, errs)
	}
	return errs
}

// attempt is a change on its way to the kernel.
type attempt struct {
	change int // its place among the changes
	key    routes.Key
	before use // of the key; zero: none known
}

// send makes the changes listed in todo in one batch and sets their errors. It returns those that may have failed only
// because the kernel dropped a nexthop group unasked. Caller holds mu.
func (f *FIB) send(changes []routes.Change, todo []int, errs []error) (again []int) {
	var b rtnl.Batch
	sent := make([]attempt, 0, len(todo))
	ensured := make(map[string]ensured)
	now := time.Now()
	for _, i := range todo {
		c := changes[i]
		c.Route = c.Route.Canonical()
		key := c.Route.Key()
		before, known := f.uses.routes[key]
		if c.Op == routes.Delete {
			if !known {
				continue // neither listed nor written, so not ours
			}
			f.remove(&b, c.Route, before.shape)
		} else {
			u := use{at: now}
			errs[i] = f.encode(&b, c, &u, ensured)
			f.uses.set(key, u)
			if errs[i] != nil {
				f.uses.keepShape(key, before)
				f.uses.needsLink(key)
				continue
			}
		}
		sent = append(sent, attempt{i, key, before})
	}
	for n, err := range f.conn.Do(&b, nil) {
		a := sent[n]
		op := changes[a.change].Op
		err = outcome(op, err)
		errs[a.change] = err
		switch {
		case err == nil && op == routes.Delete:
			f.uses.drop(a.key)
		case err != nil && op != routes.Delete:
			f.uses.keepShape(a.key, a.before)
			if errors.Is(err, routes.ErrExists) || errors.Is(err, routes.ErrGone) {
				continue
			}
			if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) {
				f.uses.needsLink(a.key)
			}
			if f.uses.routes[a.key].group != 0 {
				again = append(again, a.change)
			}
		}
	}
	return again
}

// outcome turns the kernel's answer into what routes.FIB promises.
func outcome(op routes.Op, err error) error {
	switch {
	case op == routes.Delete && (errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)):
		return nil
	case op == routes.Add && errors.Is(err, unix.EEXIST):
		return routes.ErrExists
	case op == routes.Replace && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)):
		return routes.ErrGone
	}
	return err
}

// Suspend takes next hops out of every group, in one message a next hop, or puts them back, in one message a group; one with a zone
// only on that link. It is for a neighbour known to be dead whose link still has carrier. To put them back takes longer: the
// kernel announces every route of a group that is replaced to whoever listens (about 1 us each), though packets take the new legs
// before.
func (f *FIB) Suspend(suspended bool, addrs ...netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, addr := range addrs {
		f.hops.suspend(addr.Unmap(), suspended)
	}
	if err := f.hops.cut(); err != nil {
		f.log.Warn("cannot take a suspended next hop out at once, its groups are replaced", "error", err)
	}
	f.hint() // routes with no other next hop went, or can come back
	return f.hops.sync()
}
