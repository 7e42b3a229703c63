// Package unnumbered finds the routers of sessions that are configured by interface (RFC 8950), and lets them find us. On
// each interface it sends router advertisements, which FRR and its kin wait for, and learns the router's link-local address
// from the advertisements that it sends, or from its answer to an echo request to all routers where it sends none. A link
// must have one router: which of several is meant would be a guess.
package unnumbered

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// errStale says that the interface was replaced by another of its name.
var errStale = errors.New("the interface is another one now")

// Options configure a Watch.
type Options struct {
	Log     *slog.Logger
	Changed func() // called after what Router says of an interface has changed; must return soon. May be nil
	// File keeps the routers over a restart of the agent, so that their sessions stay. "": they are found anew then.
	File string
}

// Router is what is known of the router on an interface.
type Router struct {
	Addr    netip.Addr // link-local, with the interface as zone; zero: not known
	Problem string     // why it is not known, or that there are several; empty when all is well
}

// Watch finds the routers of a set of interfaces.
type Watch struct {
	opts Options
	home *os.File      // the network namespace
	wake chan struct{} // of size 1: the set changed

	mu     sync.Mutex // guards what follows
	want   []string
	ports  map[string]*port
	router map[string]Router
}

// New returns a Watch of the calling thread's network namespace that does nothing before Run.
func New(interfaces []string, opts Options) (*Watch, error) {
	home, err := rtnl.ThreadNamespace()
	if err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watch{
		opts: opts, home: home, wake: make(chan struct{}, 1),
		want: interfaces, ports: map[string]*port{}, router: map[string]Router{},
	}
	known, err := recall(opts.File)
	if err != nil {
		opts.Log.Warn("sessions by interface start anew", "error", err)
	}
	for _, link := range interfaces {
		if a, ok := known[link]; ok {
			w.router[link] = Router{Addr: a.WithZone(link)}
		}
	}
	return w, nil
}

// Close releases what New opened, after Run has returned.
func (w *Watch) Close() error { return w.home.Close() }

// Set changes the interfaces. Those that stay are not disturbed.
func (w *Watch) Set(interfaces []string) {
	w.mu.Lock()
	w.want = interfaces
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Router returns the router on an interface.
func (w *Watch) Router(link string) Router {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.router[link]
	if !ok {
		r.Problem = "looking for a router on " + link
	}
	return r
}

// Problems are what is wrong with the interfaces, in their order.
func (w *Watch) Problems() []string {
	w.mu.Lock()
	want := slices.Clone(w.want)
	w.mu.Unlock()
	var out []string
	for _, link := range want {
		if r := w.Router(link); r.Problem != "" {
			out = append(out, r.Problem)
		}
	}
	return out
}

// Session tells whether the session over an interface is established: without one, advertisements come more often, so that a
// router that has just started need not wait for them.
func (w *Watch) Session(link string, established bool) {
	w.mu.Lock()
	p := w.ports[link]
	w.mu.Unlock()
	if p != nil {
		p.setSession(established)
	}
}

// Run works on the interfaces until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	stops := map[string]context.CancelFunc{}
	for {
		w.mu.Lock()
		want := slices.Clone(w.want)
		for link, stop := range stops {
			if !slices.Contains(want, link) {
				stop()
				delete(stops, link)
				delete(w.ports, link)
				delete(w.router, link)
			}
		}
		for _, link := range want {
			if stops[link] != nil {
				continue
			}
			ctx, stop := context.WithCancel(ctx)
			stops[link] = stop
			p := newPort(link, func() (wire, error) { return w.openIn(link) }, w.teller(ctx, link), w.opts.Log)
			if r := w.router[link]; r.Addr.IsValid() { // of an agent before
				p.d.remember(r.Addr.WithZone(""))
			}
			w.ports[link] = p
			running.Go(func() { p.run(ctx) })
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			return nil
		}
	}
}

func (w *Watch) within(fn func() error) error { return rtnl.Within(int(w.home.Fd()), fn) }

func (w *Watch) openIn(link string) (out wire, err error) {
	err = w.within(func() (err error) {
		out, err = openSocket(link, w.within)
		return err
	})
	return out, err
}

// teller notes what a port found, until it is stopped.
func (w *Watch) teller(ctx context.Context, link string) func(netip.Addr, string) {
	return func(a netip.Addr, problem string) {
		now := Router{Problem: problem}
		if a.IsValid() {
			now.Addr = a.WithZone(link)
		}
		w.mu.Lock()
		before, known := w.router[link]
		if ctx.Err() != nil || known && before == now {
			w.mu.Unlock()
			return
		}
		w.router[link] = now
		var err error
		if now.Addr != before.Addr {
			err = w.keep()
		}
		w.mu.Unlock()
		if now.Addr != before.Addr {
			w.Session(link, false) // of the router before, which goes without a word
		}
		if err != nil {
			w.opts.Log.Warn("routers on the interfaces not kept for the next agent", "error", err)
		}
		switch {
		case now.Addr != before.Addr:
			w.opts.Log.Info("router on interface", "interface", link, "router", now.Addr, "before", before.Addr, "problem", problem)
		case problem != "":
			w.opts.Log.Warn("router on interface", "interface", link, "router", now.Addr, "problem", problem)
		}
		if w.opts.Changed != nil {
			w.opts.Changed()
		}
	}
}
