package routes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Foreign is a route that the kernel's table has and that is not ours.
type Foreign struct {
	Prefix   netip.Prefix
	Protocol string // who made it, as iproute2 names it
	Gateway  netip.Addr
	Link     string
	Metric   uint32
	// Connected is the kernel's own route to the network of a link: every address in it is on that link.
	Connected bool
}

// String prints the route as `ip route` does.
func (f Foreign) String() string {
	parts := []string{f.Prefix.String()}
	if f.Gateway.IsValid() {
		parts = append(parts, "via", f.Gateway.String())
	}
	if f.Link != "" {
		parts = append(parts, "dev", f.Link)
	}
	parts = append(parts, "proto", f.Protocol)
	if f.Metric != 0 {
		parts = append(parts, "metric", fmt.Sprint(f.Metric))
	}
	return strings.Join(parts, " ")
}

func (f Foreign) compare(o Foreign) int {
	return cmp.Or(cmp.Compare(f.Metric, o.Metric), cmp.Compare(f.Protocol, o.Protocol), cmp.Compare(f.Link, o.Link), f.Gateway.Compare(o.Gateway))
}

// ErrRefused is the state of a learned route that would take the place of a route that the host has by itself, whatever
// the metrics are: an operator's word goes before the fabric's.
var ErrRefused = errors.New("the host has a route of its own there")

// RefusedError is the ErrRefused of one route.
type RefusedError struct{ Foreign Foreign }

func (e *RefusedError) Error() string {
	what := "the host has its own route"
	if e.Foreign.Connected {
		what = "it is in the network of a link"
	}
	return fmt.Sprintf("%s: %v", what, e.Foreign)
}

// Unwrap makes it an ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// guard knows the foreign routes. The zero value knows none.
type guard struct {
	routes    map[netip.Prefix][]Foreign // by prefix
	count     int
	connected [129]int // how many connected networks there are of each length
}

// newGuard takes the foreign routes as listed.
func newGuard(list []Foreign) *guard {
	g := &guard{routes: make(map[netip.Prefix][]Foreign, len(list)), count: len(list)}
	for _, f := range list {
		same := append(g.routes[f.Prefix], f)
		slices.SortFunc(same, Foreign.compare)
		g.routes[f.Prefix] = same
		if f.Connected {
			g.connected[f.Prefix.Bits()]++
		}
	}
	return g
}

// covers returns the foreign route that keeps a learned one of this prefix out.
func (g *guard) covers(p netip.Prefix) (Foreign, bool) {
	if same := g.routes[p]; len(same) > 0 {
		return same[0], true
	}
	// A connected network of length 0 would be all there is: it says nothing of where addresses are.
	for bits := p.Bits() - 1; bits > 0; bits-- {
		if g.connected[bits] == 0 {
			continue
		}
		for _, f := range g.routes[netip.PrefixFrom(p.Addr(), bits).Masked()] {
			if f.Connected {
				return f, true
			}
		}
	}
	return Foreign{}, false
}

// changes returns the prefixes that only one of the two has, or has otherwise, and whether connected networks are
// among them: these matter to more than their own prefix.
func (g *guard) changes(to *guard) (prefixes []netip.Prefix, connected bool) {
	for _, side := range [][2]*guard{{g, to}, {to, g}} {
		for p, fs := range side[0].routes {
			if others := side[1].routes[p]; !slices.Equal(fs, others) {
				prefixes = append(prefixes, p)
				isConnected := func(f Foreign) bool { return f.Connected }
				connected = connected || slices.ContainsFunc(fs, isConnected) != slices.ContainsFunc(others, isConnected)
			}
		}
	}
	return prefixes, connected
}

// fabric is the place of the owner whose routes give way to foreign ones.
var fabric = index(Fabric)

// refusal returns the foreign route that keeps out the owner's route for the prefix. Caller holds mu.
func (t *Table) refusal(i int, p netip.Prefix) (*RefusedError, bool) {
	if i != fabric {
		return nil, false
	}
	f, ok := t.guard.covers(p)
	if !ok {
		return nil, false
	}
	return &RefusedError{f}, true
}

// refused returns the reason if what belongs at key is a learned route that has to give way. Caller holds mu.
func (t *Table) refused(key Key) (*RefusedError, bool) {
	if r, ok := t.desired[fabric][key.Prefix]; !ok || r.Metric != key.Metric || t.shadowed(fabric, r) {
		return nil, false
	}
	return t.refusal(fabric, key.Prefix)
}

// guardWith takes the foreign routes as they are now and queues the learned routes they let in or keep out.
func (t *Table) guardWith(list []Foreign) {
	next := newGuard(list)
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.guard
	t.guard = next
	prefixes, connected := before.changes(next)
	if connected {
		for p, r := range t.desired[fabric] {
			_, was := before.covers(p)
			if _, is := next.covers(p); was != is {
				t.enqueue(r.Key(), true)
			}
		}
	}
	for _, p := range prefixes {
		if r, ok := t.desired[fabric][p]; ok {
			t.enqueue(r.Key(), true)
		}
	}
}

// lookAtForeign reads the foreign routes.
func (l *loop) lookAtForeign(ctx context.Context) error {
	start := time.Now()
	list, err := l.t.fib.Foreign(ctx)
	l.lastForeign, l.foreignAt = time.Now(), time.Time{}
	l.foreignTime = l.lastForeign.Sub(start)
	if err != nil {
		return fmt.Errorf("list the host's other routes: %w", err)
	}
	l.t.guardWith(list)
	return nil
}
