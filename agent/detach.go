package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/routes"
)

// Detach takes a container's interface off the fabric. It returns once the address is unreachable and the link on its
// way out; the lease is released when the kernel no longer has the link. Detaching what is not attached succeeds and
// reports false.
func (a *Agent) Detach(ctx context.Context, key Key) (found bool, err error) {
	return a.detachFor(ctx, key, "")
}

// detachFor is Detach, with the reason if there is another one than that somebody asked for it.
func (a *Agent) detachFor(ctx context.Context, key Key, why string) (found bool, err error) {
	v := a.detaching(key)
	defer func() { v.end(err) }()
	if err := key.Validate(); err != nil {
		return false, err
	}
	if err := a.awaitReady(ctx); err != nil {
		return false, err
	}
	unlock, err := a.keys.Lock(ctx, key)
	if err != nil {
		return false, fmt.Errorf("detach %s: waiting for another request on it: %w", key, err)
	}
	defer unlock()
	return v.detach(ctx, key, why)
}

// detach is Detach for who holds the key's lock.
func (v *verb) detach(ctx context.Context, key Key, why string) (found bool, err error) {
	a := v.Agent
	if a.isRetiring(key) {
		return false, nil
	}
	leases, held := a.leases.Lookup(leaseKey(key))
	ep, recorded := a.Endpoint(key)
	if !held && !recorded {
		return false, nil
	}
	v.owner, v.event.Owner, v.event.Addresses = ep.Owner, ep.Owner, ep.Addresses
	// From here the container goes whatever the caller does: half a detach helps nobody.
	ctx = context.WithoutCancel(ctx)
	addrs := leaseAddrs(leases)
	if !held {
		addrs = ep.Addresses
	}
	spec := endpoint.Spec{HostLink: endpoint.HostLink(key.ContainerID, key.Interface), Addrs: addrs}
	for _, r := range hostRoutes(spec) {
		if err := a.table.Delete(ctx, routes.Endpoints, r.Prefix); err != nil {
			return true, fmt.Errorf("detach %s: route %s: %w", key, r.Prefix, err)
		}
	}
	gone, err := a.wirer.Retire(ctx, spec.HostLink, spec.Addrs)
	if err != nil {
		return true, fmt.Errorf("detach %s: %w", key, err)
	}
	a.forget(key)
	a.dropNote(ep)
	switch {
	case recorded:
		v.did(eventOf(history.Detach, ep), why)
	case a.lapsed(key):
		v.did(leaseEvent(history.Detach, key, leases), why)
	default: // of what no attach finished, only the lease has to be told of
		v.result = ok
	}
	a.releaseWhenGone(key, ep.Netns, gone)
	a.log.Info("detached", "container", key.ContainerID, "interface", key.Interface, "addresses", spec.Addrs)
	return true, nil
}

// releaseWhenGone keeps the lease until the link is gone, so that an address is never in two places. A crash in
// between leaves a lease without a link, which reconciliation finds.
func (a *Agent) releaseWhenGone(key Key, netns string, gone <-chan struct{}) {
	released := make(chan struct{})
	a.mu.Lock()
	a.retiring[key] = retirement{netns: netns, released: released}
	a.mu.Unlock()
	a.finishers.Go(func() {
		select {
		case <-gone:
			leases, err := a.leases.Release(leaseKey(key))
			a.released(key, leases, "")
			if err != nil {
				a.log.Error("lease not released, will be retried", "container", key.ContainerID, "interface", key.Interface, "err", err)
			}
		case <-a.stopping: // whoever waits must not hold up the end; the lease stays for the next run to find
		}
		a.mu.Lock()
		delete(a.retiring, key)
		a.mu.Unlock()
		close(released)
	})
}

func (a *Agent) isRetiring(key Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.retiring[key]
	return ok
}

// awaitRetired waits until the kernel no longer has the link of the key's last attachment.
func (a *Agent) awaitRetired(ctx context.Context, key Key) error {
	a.mu.Lock()
	r, ok := a.retiring[key]
	a.mu.Unlock()
	if !ok {
		return nil
	}
	return waitClosed(ctx, r.released)
}

// leaving are the detached links of this name in this namespace that the kernel may still have: a container that is
// attached anew right after a detach finds its interface's name taken for a moment.
func (a *Agent) leaving(netns, iface string) []<-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	var pending []<-chan struct{}
	for key, r := range a.retiring {
		if key.Interface == iface && (r.netns == netns || r.netns == "") {
			pending = append(pending, r.released)
		}
	}
	return pending
}

// Collect detaches every attachment of an owner that is not in valid, and returns what it detached.
func (a *Agent) Collect(ctx context.Context, owner string, valid []Key) (detached []Key, err error) {
	if err := a.awaitReady(ctx); err != nil {
		return nil, err
	}
	keep := make(map[Key]bool, len(valid))
	for _, k := range valid {
		keep[k] = true
	}
	var errs []error
	for _, ep := range a.Endpoints() {
		if ep.Owner != owner || keep[ep.Key] {
			continue
		}
		if _, err := a.detachFor(ctx, ep.Key, "collected: "+owner+" no longer has it"); err != nil {
			errs = append(errs, err)
			continue
		}
		detached = append(detached, ep.Key)
	}
	slices.SortFunc(detached, compareKeys)
	return detached, errors.Join(errs...)
}
