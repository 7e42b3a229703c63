package growth_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

const (
	kernelPoll = 10 * time.Millisecond
	tablePoll  = 100 * time.Millisecond
)

// watch looks at the ToRs all the time, at the kernel of each one's namespace and at its BGP table, and keeps what it saw whenever
// that changed.
type watch struct {
	lab   *fabric.Lab
	space netip.Prefix          // of the containers
	nodes map[netip.Addr]string // hosts by their addresses on the cables

	began time.Time

	mu     sync.Mutex              // guards all below
	live   map[netip.Addr]bool     // from the return of attach to the call of detach
	tables map[string]*history     // "kernel of r1t1", "table of r1t1"
	owners map[netip.Prefix]string // hosts, by the next hops that prefixes had
	bare   []string                // live addresses that a ToR had no route to
	errs   []string
}

// history is what one table held.
type history struct {
	polls  int
	states []state
}

type state struct {
	at    time.Duration
	hosts map[netip.Prefix]string // by next hop; "" where it tells of no host
}

func newWatch(lab *fabric.Lab) *watch {
	w := &watch{
		lab: lab, space: lab.Plan.Space[0], nodes: map[netip.Addr]string{}, live: map[netip.Addr]bool{},
		tables: map[string]*history{}, owners: map[netip.Prefix]string{},
	}
	for _, h := range lab.Plan.AllHosts() {
		for _, l := range h.Links {
			w.nodes[l.Addr.Addr()] = h.Name
		}
	}
	return w
}

// born notes an address that must have a route from now on.
func (w *watch) born(a netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[a] = true
}

// dies notes an address that need not have a route any more.
func (w *watch) dies(a netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.live, a)
}

func (w *watch) alive() map[netip.Addr]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.live)
}

// start looks until stop is called.
func (w *watch) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w.began = time.Now()
	var wg sync.WaitGroup
	for _, r := range w.lab.Plan.Racks[0].ToRs {
		wg.Go(func() { every(ctx, kernelPoll, func() { w.lookAtKernel(ctx, r.Name) }) })
		wg.Go(func() { every(ctx, tablePoll, func() { w.lookAtTable(ctx, r.Name) }) })
	}
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

func every(ctx context.Context, period time.Duration, do func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *watch) lookAtKernel(ctx context.Context, router string) {
	before := w.alive()
	routes, err := w.lab.Tor(router).KernelRoutes(ctx, w.space)
	at := time.Since(w.began)
	hosts := map[netip.Prefix]string{}
	for _, r := range routes {
		hosts[r.Prefix] = ""
		for _, hop := range r.NextHops {
			if h := w.nodes[hop]; h != "" {
				hosts[r.Prefix] = h
			}
		}
	}
	w.saw(ctx, "kernel of "+router, at, hosts, err)
	if err == nil {
		w.checkCovered(router, at, before, hosts)
	}
}

// checkCovered looks for the routes of what was alive before a look and still is.
func (w *watch) checkCovered(router string, at time.Duration, before map[netip.Addr]bool, hosts map[netip.Prefix]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a := range before {
		if w.live[a] && !covered(a, hosts) {
			w.bare = append(w.bare, fmt.Sprintf("%.3f s: %s has no route in the kernel of %s, which has %v", at.Seconds(), a, router, prefixes(hosts)))
		}
	}
}

func (w *watch) lookAtTable(ctx context.Context, router string) {
	all, err := w.lab.Tor(router).Prefixes(ctx, w.space)
	hosts := map[netip.Prefix]string{}
	for _, p := range all {
		hosts[p] = ""
	}
	w.saw(ctx, "table of "+router, time.Since(w.began), hosts, err)
}

// saw keeps what a table holds, if it is new.
func (w *watch) saw(ctx context.Context, table string, at time.Duration, hosts map[netip.Prefix]string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			w.errs = append(w.errs, fmt.Sprintf("%.3f s: %s: %v", at.Seconds(), table, err))
		}
		return
	}
	h := w.tables[table]
	if h == nil {
		h = &history{}
		w.tables[table] = h
	}
	h.polls++
	if n := len(h.states); n == 0 || !maps.Equal(h.states[n-1].hosts, hosts) {
		h.states = append(h.states, state{at, hosts})
	}
	for p, host := range hosts {
		if host != "" {
			w.owners[p] = host
		}
	}
}

func covered(a netip.Addr, hosts map[netip.Prefix]string) bool {
	for p := range hosts {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func prefixes(hosts map[netip.Prefix]string) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(hosts), netip.Prefix.Compare)
}

// of are the prefixes of one host in a state. One that a table has by way of the spine, or without a next hop, is of the host that
// it is known to come from.
func (w *watch) of(host string, s state) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range prefixes(s.hosts) {
		if h := s.hosts[p]; h == host || h == "" && w.owners[p] == host {
			all = append(all, p)
		}
	}
	return all
}

// judge fails if a table ever held what it should not, and logs what it held.
func (w *watch) judge(t *testing.T, budget int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wrong := range w.wrong(budget) {
		t.Error(wrong)
	}
	for _, table := range slices.Sorted(maps.Keys(w.tables)) {
		h := w.tables[table]
		for _, host := range w.lab.Plan.AllHosts() {
			t.Logf("%s: at most %d prefixes of %s, %d looks, %d states", table, w.most(host.Name, h), host.Name, h.polls, len(h.states))
		}
	}
	for _, h := range w.lab.Plan.AllHosts() {
		t.Logf("%s in the kernel of r1t1: %s", h.Name, w.sequence(h.Name, w.tables["kernel of r1t1"]))
	}
}

// wrong is all that should not have been.
func (w *watch) wrong(budget int) []string {
	var all []string
	for _, r := range w.lab.Plan.Racks[0].ToRs {
		for _, table := range []string{"kernel of " + r.Name, "table of " + r.Name} {
			all = append(all, w.wrongIn(table, budget)...)
		}
	}
	all = append(all, firstFew(w.bare, "times a live container had no route")...)
	return append(all, firstFew(w.errs, "looks failed")...)
}

func (w *watch) wrongIn(table string, budget int) []string {
	h := w.tables[table]
	if h == nil {
		return []string{"the " + table + " was never seen"}
	}
	var all []string
	for _, host := range w.lab.Plan.AllHosts() {
		if w.most(host.Name, h) == 0 {
			all = append(all, fmt.Sprintf("the %s never held a prefix of %s", table, host.Name))
		}
	}
	for _, s := range h.states {
		for _, host := range w.lab.Plan.AllHosts() {
			if of := w.of(host.Name, s); len(of) > budget {
				all = append(all, fmt.Sprintf("%.3f s: the %s holds %v of %s, more than the budget of %d", s.at.Seconds(), table, of, host.Name, budget))
			}
		}
		for _, p := range prefixes(s.hosts) {
			if p.IsSingleIP() {
				all = append(all, fmt.Sprintf("%.3f s: the %s holds %s", s.at.Seconds(), table, p))
			}
			if s.hosts[p] == "" && w.owners[p] == "" {
				all = append(all, fmt.Sprintf("%.3f s: the %s holds %s, which comes from no host", s.at.Seconds(), table, p))
			}
		}
	}
	return all
}

// most is the largest number of prefixes that a table held of a host at a time.
func (w *watch) most(host string, h *history) (n int) {
	for _, s := range h.states {
		n = max(n, len(w.of(host, s)))
	}
	return n
}

func firstFew(all []string, what string) []string {
	if len(all) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d %s, at first:\n%s", len(all), what, strings.Join(all[:min(len(all), 5)], "\n"))}
}

// sequence is how a host's prefixes changed.
func (w *watch) sequence(host string, h *history) string {
	if h == nil {
		return ""
	}
	var steps []string
	last := []netip.Prefix{{}} // like none
	for _, s := range h.states {
		of := w.of(host, s)
		if slices.Equal(of, last) {
			continue
		}
		var texts []string
		for _, p := range of {
			texts = append(texts, p.String())
		}
		steps, last = append(steps, fmt.Sprintf("%.1f s %s", s.at.Seconds(), strings.Join(texts, " "))), of
	}
	return strings.Join(steps, "; ")
}
