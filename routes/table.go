package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Owner says which part of the agent wants a route. Where two want the same prefix and metric, the first in the order
// Endpoints, Blocks, Fabric has it, and the other's route is reported as failed.
type Owner string

// The owners.
const (
	Blocks    Owner = "blocks"    // discard routes of the host's blocks
	Endpoints Owner = "endpoints" // host routes of containers
	Fabric    Owner = "fabric"    // learned from the ToRs
)

// precedence lists the owners, strongest first. Owners are indexed by their place in it.
var precedence = [...]Owner{Endpoints, Blocks, Fabric}

const owners = len(precedence)

var (
	// ErrShadowed is the state of a route whose prefix and metric a stronger owner has.
	ErrShadowed = errors.New("a stronger owner has this prefix and metric")
	// ErrStopped is returned once Run has ended.
	ErrStopped = errors.New("route table has stopped")
)

// Options of a Table. The zero value is usable.
type Options struct {
	Log *slog.Logger // nil discards
	// Resync is how often the kernel is listed in full to repair drift that no hint told of. Default 30 s.
	Resync time.Duration
	// SyncDeadline after the start of Run, owners that have not called Synced are taken to have: a ToR that never
	// comes must not keep routes of an earlier run for ever. 0: no deadline.
	SyncDeadline time.Duration
}

const defaultResync = 30 * time.Second

// Table keeps the kernel equal to what the owners want. Methods may be called from any goroutine, before Run too;
// only Run touches the kernel.
//
// Nothing that the kernel holds from an earlier run is removed before every owner is Synced, except by an owner's
// explicit Delete or Update. Routes stay in the kernel when Run ends.
//
// What the fabric announces gives way to every route that the host has from others, of the same prefix whatever the metric,
// or to the network of a link that has it inside: such a route is Refused, and installed when the other one goes.
type Table struct {
	fib  FIB
	opts Options
	log  *slog.Logger
	wake chan struct{} // size 1: there is work for Run

	mu      sync.Mutex // guards all below
	desired [owners]map[netip.Prefix]Route
	synced  [owners]bool
	entries map[Key]*entry
	urgent  []Key // keys somebody waits for, before the others
	queue   []Key
	failed  map[Key]struct{}
	retryAt time.Time       // of the first of failed, or earlier; zero: none
	idle    []chan struct{} // closed when nothing is left to try
	busy    bool            // a batch is at the kernel, or the kernel has never been listed
	prune   bool            // every owner became synced: list and prune
	stopped bool
	guard   *guard           // the host's other routes
	states  [Refused + 1]int // how many entries are in each
	done    done
}

// entry is what is known about a prefix and metric.
type entry struct {
	state    State
	err      error
	since    time.Time
	attempts int // failures in a row
	retry    time.Time
	queued   bool
	removed  bool // an owner took it back: it may go although not everybody is synced
	waiters  []chan error
}

// NewTable returns a table over fib. Nothing happens before Run.
func NewTable(fib FIB, opts Options) *Table {
	if opts.Resync <= 0 {
		opts.Resync = defaultResync
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	t := &Table{
		fib: fib, opts: opts, log: opts.Log,
		wake:    make(chan struct{}, 1),
		entries: make(map[Key]*entry),
		failed:  make(map[Key]struct{}),
		busy:    true,
		guard:   newGuard(nil),
	}
	for i := range t.desired {
		t.desired[i] = make(map[netip.Prefix]Route)
	}
	return t
}

// Upsert makes r the owner's route for its prefix and returns once the kernel has it, or refused it. A refused route
// stays wanted and is tried again; take it back with Delete. When ctx ends first, the outcome is unknown.
func (t *Table) Upsert(ctx context.Context, owner Owner, r Route) error {
	r = r.Canonical()
	if err := r.validate(); err != nil {
		return err
	}
	i := index(owner)
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return ErrStopped
	}
	t.want(i, r, true)
	if _, first, ok := t.winner(r.Key()); ok && first != i {
		t.signal()
		t.mu.Unlock()
		return fmt.Errorf("route %v of %s: %w (%s)", r.Prefix, owner, ErrShadowed, precedence[first])
	}
	done := t.await(r.Key())
	t.mu.Unlock()
	if err := t.wait(ctx, done, "install", r.Prefix); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if why, refused := t.refusal(i, r.Prefix); refused {
		return fmt.Errorf("route %v of %s: %w", r.Prefix, owner, why)
	}
	return nil
}

// Delete takes the owner's route for the prefix back and returns once the kernel has it no more. A missing route is
// success, and so is one that another owner wants to stay.
func (t *Table) Delete(ctx context.Context, owner Owner, prefix netip.Prefix) error {
	prefix = prefix.Masked()
	i := index(owner)
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return ErrStopped
	}
	key := t.unwant(i, prefix)
	t.enqueue(key, true)
	done := t.await(key)
	t.mu.Unlock()
	return t.wait(ctx, done, "remove", prefix)
}

func (t *Table) wait(ctx context.Context, done <-chan error, verb string, prefix netip.Prefix) error {
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s route %v: %w", verb, prefix, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s route %v: no answer from the kernel yet: %w", verb, prefix, ctx.Err())
	}
}

// Set replaces everything the owner wants. It says nothing about being synced: routes missing from the set are pruned
// when every owner is. It does not wait for the kernel. An owner calls Set and Update from one goroutine at a time.
func (t *Table) Set(owner Owner, routes []Route) {
	i := index(owner)
	keep := t.wantAll(i, routes)
	t.mu.Lock()
	defer t.mu.Unlock()
	for prefix, r := range t.desired[i] {
		if _, ok := keep[prefix]; !ok {
			delete(t.desired[i], prefix)
			t.enqueue(r.Key(), false)
		}
	}
	t.signal()
}

// Update changes some of what the owner wants, without waiting for the kernel. A prefix in both lists is an upsert.
func (t *Table) Update(owner Owner, upserts []Route, deletes []netip.Prefix) {
	i := index(owner)
	keep := t.wantAll(i, upserts)
	for some := range slices.Chunk(deletes, chunk) {
		t.mu.Lock()
		for _, prefix := range some {
			if _, ok := keep[prefix.Masked()]; !ok {
				t.enqueue(t.unwant(i, prefix.Masked()), false)
			}
		}
		t.signal()
		t.mu.Unlock()
	}
}

// chunk is how many routes are taken in before those who wait for the lock get their turn: some 0.2 ms.
const chunk = 512

// wantAll records many routes and returns their prefixes.
func (t *Table) wantAll(i int, routes []Route) map[netip.Prefix]struct{} {
	keep := make(map[netip.Prefix]struct{}, len(routes))
	for some := range slices.Chunk(routes, chunk) {
		t.mu.Lock()
		for _, r := range some {
			r = r.Canonical()
			keep[r.Prefix] = struct{}{}
			t.want(i, r, false)
		}
		t.signal()
		t.mu.Unlock()
	}
	return keep
}

// unwant takes an owner's route for the prefix back and returns the key that may go from the kernel. Of a leftover of
// an earlier run nothing is known, and the default metric is assumed. Caller holds mu.
func (t *Table) unwant(i int, prefix netip.Prefix) Key {
	key := Route{Prefix: prefix}.Canonical().Key()
	if have, ok := t.desired[i][prefix]; ok {
		key = have.Key()
		delete(t.desired[i], prefix)
	}
	t.entry(key).removed = true
	return key
}

// Synced says that the owner has told everything it wants. When all have, routes nobody wants are pruned.
func (t *Table) Synced(owner Owner) {
	i := index(owner)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.synced[i] {
		return
	}
	t.synced[i] = true
	t.log.Info("route owner synced", "owner", owner)
	t.prune = t.allSynced()
	t.signal()
}

// want records an owner's route and queues what changes by it. An owner that moves a prefix to another metric has the
// new route queued before the old one. Caller holds mu.
func (t *Table) want(i int, r Route, urgent bool) {
	old, had := t.desired[i][r.Prefix]
	if had && !urgent && old.satisfiedBy(r) && r.satisfiedBy(old) {
		return
	}
	t.desired[i][r.Prefix] = r
	e := t.entry(r.Key())
	e.removed, e.err, e.attempts = false, nil, 0
	t.set(e, Pending, time.Now())
	t.enqueue(r.Key(), urgent)
	if had && old.Metric != r.Metric {
		t.entry(old.Key()).removed = true
		t.enqueue(old.Key(), urgent)
	}
}

// winner returns the route that belongs in the kernel at key, and its owner. Caller holds mu.
func (t *Table) winner(key Key) (Route, int, bool) {
	for i := range t.desired {
		if r, ok := t.desired[i][key.Prefix]; ok && r.Metric == key.Metric {
			if _, refused := t.refusal(i, key.Prefix); !refused {
				return r, i, true
			}
		}
	}
	return Route{}, 0, false
}

// shadowed reports whether a stronger owner than i has the route's place. Caller holds mu.
func (t *Table) shadowed(i int, r Route) bool {
	for j := range i {
		if other, ok := t.desired[j][r.Prefix]; ok && other.Metric == r.Metric {
			return true
		}
	}
	return false
}

// entry returns the entry of key, made if need be. Caller holds mu.
func (t *Table) entry(key Key) *entry {
	e, ok := t.entries[key]
	if !ok {
		e = &entry{since: time.Now()}
		t.entries[key] = e
		t.states[e.state]++
	}
	return e
}

// enqueue has Run look at key. Caller holds mu, and signals unless the key is awaited.
func (t *Table) enqueue(key Key, urgent bool) {
	e := t.entry(key)
	if urgent {
		t.urgent = append(t.urgent, key)
	} else if !e.queued {
		t.queue = append(t.queue, key)
	}
	e.queued = true
	delete(t.failed, key)
}

// await returns a channel that gets the outcome of the next attempt at key. Caller holds mu.
func (t *Table) await(key Key) <-chan error {
	done := make(chan error, 1)
	e := t.entry(key)
	e.waiters = append(e.waiters, done)
	t.signal()
	return done
}

func (t *Table) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *Table) allSynced() bool {
	return !slices.Contains(t.synced[:], false)
}

func index(o Owner) int {
	i := slices.Index(precedence[:], o)
	if i < 0 {
		panic(fmt.Sprintf("routes: unknown owner %q", o))
	}
	return i
}
