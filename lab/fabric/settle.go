package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
)

// settlePoll is how often a router that is not ready is asked again.
const settlePoll = 100 * time.Millisecond

// settle waits until the fabric has converged.
func (b *builder) settle(ctx context.Context) error {
	return b.lab.wait(ctx, func(done, total int) { b.report("converged routers", done, total) })
}

// WaitReady waits until every session is up and every router's kernel has a route to every block. The error of a context
// that ends says what is missing, and the last log lines of whoever is to blame.
func (l *Lab) WaitReady(ctx context.Context) error {
	return l.wait(ctx, func(int, int) {})
}

// errNotReady is that of a router which is not ready when the time is up.
var errNotReady = errors.New("not ready")

// shownNotReady is how many routers an error tells of.
const shownNotReady = 3

func (l *Lab) wait(ctx context.Context, report func(done, total int)) error {
	// Top-of-rack routers first: what the spine lacks is mostly their fault.
	routers := append(l.Plan.Routers()[1:], l.Plan.Spine)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make([]error, len(routers))
	done := make(chan struct{}, len(routers))
	limit := make(chan struct{}, parallel)
	for i, r := range routers {
		go func() {
			limit <- struct{}{}
			defer func() { <-limit; done <- struct{}{} }()
			if errs[i] = l.await(ctx, r); errs[i] != nil && !errors.Is(errs[i], errNotReady) {
				cancel(errs[i]) // nobody else need wait for their deadline
			}
		}()
	}
	for i := range routers {
		report(i, len(routers))
		<-done
	}
	report(len(routers), len(routers))
	return firstOf(errs)
}

// firstOf joins the first few errors and counts the others. One that is not for want of time explains them all.
func firstOf(errs []error) error {
	var shown []error
	more := 0
	for _, err := range errs {
		switch {
		case err == nil:
		case !errors.Is(err, errNotReady):
			return err
		case len(shown) < shownNotReady:
			shown = append(shown, err)
		default:
			more++
		}
	}
	if more > 0 {
		shown = append(shown, fmt.Errorf("and %d more routers", more))
	}
	return errors.Join(shown...)
}

func (l *Lab) await(ctx context.Context, r Router) error {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for {
		missing := l.missing(ctx, r)
		if missing == nil {
			return nil
		}
		if err := l.ended(r); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("router %s is %w: %w: %w%s", r.Name, errNotReady, context.Cause(ctx), missing, l.logs(r))
		case <-tick.C:
		}
	}
}

// missing says what a router lacks to be ready.
func (l *Lab) missing(ctx context.Context, r Router) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // at the deadline above all it is asked
	defer cancel()
	t := l.tors[r.Name]
	up, _, err := t.Established(ctx)
	if err != nil {
		return err
	}
	want := len(r.Links)
	if !l.Agents {
		want = l.Plan.routerSessions(r)
	}
	if up < want {
		return fmt.Errorf("%d of %d sessions are up", up, want)
	}
	var blocks []netip.Prefix
	if l.Agents {
		if blocks, err = l.allPrefixes(ctx); err != nil {
			return err
		}
	}
	have, err := t.KernelPrefixes(ctx, l.Plan.Space...)
	if err != nil {
		return err
	}
	if lacking := without(blocks, have); len(lacking) > 0 {
		return fmt.Errorf("its kernel has no route to %d of %d blocks, the first is %s", len(lacking), len(blocks), lacking[0])
	}
	return nil
}

// routerSessions counts the sessions of a router with other routers.
func (p Plan) routerSessions(r Router) int {
	if r.Name == p.Spine.Name {
		return len(r.Links)
	}
	return 1
}

// ended reports a host next to the router whose agent is no more: waiting longer would be in vain.
func (l *Lab) ended(r Router) error {
	if !l.Agents {
		return nil
	}
	for _, h := range l.neighbours(r) {
		p, err := daemon.Load(l.Plan.NodeDir(h.Name), agentName)
		if err != nil {
			return err
		}
		if !p.Alive() {
			return fmt.Errorf("host %s: the agent has ended%s", h.Name, l.tail(h.Name, agentName))
		}
	}
	return nil
}

func (l *Lab) neighbours(r Router) []Host {
	var near []Host
	for _, rack := range l.Plan.Racks {
		if slices.ContainsFunc(rack.ToRs, func(t Router) bool { return t.Name == r.Name }) {
			near = rack.Hosts
		}
	}
	return near
}

// logs are the last lines of the router and of the first of its hosts.
func (l *Lab) logs(r Router) string {
	var b strings.Builder
	for _, name := range []string{"bgpd", "bird", "tor"} {
		b.WriteString(l.tail(r.Name, name))
	}
	if near := l.neighbours(r); len(near) > 0 && l.Agents {
		b.WriteString(l.tail(near[0].Name, agentName))
	}
	return b.String()
}

func (l *Lab) tail(node, name string) string {
	path := filepath.Join(l.Plan.NodeDir(node), name+".log")
	if text := daemon.Tail(path, 8); text != "" {
		return fmt.Sprintf("\nthe end of %s:\n%s", path, text)
	}
	return ""
}

// without is what of all is not in have, which is sorted.
func without(all, have []netip.Prefix) []netip.Prefix {
	var rest []netip.Prefix
	for _, p := range all {
		if _, ok := slices.BinarySearchFunc(have, p, netip.Prefix.Compare); !ok {
			rest = append(rest, p)
		}
	}
	return rest
}

// PowerOff ends a router as a power cut does: its links lose carrier, and its processes die without a word to anybody.
func (l *Lab) PowerOff(router string) error {
	r, err := l.router(router)
	if err != nil {
		return err
	}
	return errors.Join(setLinks(r.NS, r.Links, false), l.tors[r.Name].Kill())
}

// PowerOn starts a router again. Its sessions come up later: see WaitReady.
func (l *Lab) PowerOn(ctx context.Context, router string) error {
	r, err := l.router(router)
	if err != nil {
		return err
	}
	if err := setLinks(r.NS, r.Links, true); err != nil {
		return err
	}
	_, err = l.driver.Start(ctx, l.Plan.TorNode(r))
	return err
}

func (l *Lab) router(name string) (Router, error) {
	for _, r := range l.Plan.Routers() {
		if r.Name == name {
			return r, nil
		}
	}
	return Router{}, fmt.Errorf("lab %s has no router %q", l.Plan.Name, name)
}
