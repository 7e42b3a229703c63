package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// blockMetric is the metric of discard routes: as weak as can be, so that a one-address block never hides the host
// route of the container that holds it.
const blockMetric = 1<<32 - 1

// restore rebuilds the endpoints of an earlier run from the lease file and the kernel's links, and hands every owner's
// desired routes to the table.
func (a *Agent) restore(ctx context.Context) error {
	live, err := a.wirer.List(ctx)
	if err != nil {
		return err
	}
	held := a.leasesByKey()
	var hostRts []routes.Route
	for _, link := range live {
		al, err := parseAlias(link.Alias)
		if err != nil {
			a.log.Warn("container link without a record is left alone", "link", link.HostLink, "err", err)
			continue
		}
		leases := held[al.Key]
		if len(leases) == 0 {
			a.log.Warn("container link without a lease is left alone: detach its container", "link", link.HostLink, "container", al.Key.ContainerID)
			continue
		}
		ep := Endpoint{Key: al.Key, Owner: al.Owner, HostInterface: link.HostLink, Addresses: leaseAddrs(leases), MTU: link.MTU}
		a.record(ep)
		hostRts = append(hostRts, hostRoutes(a.spec(ep, ep.Owner))...)
	}
	a.table.Set(routes.Endpoints, hostRts)
	a.table.Synced(routes.Endpoints)

	var discards []routes.Route
	for _, b := range ipam.Cover(a.opts.Blocks) {
		discards = append(discards, routes.Route{Prefix: b, Kind: routes.Blackhole, Metric: blockMetric})
	}
	a.table.Set(routes.Blocks, discards)
	a.table.Synced(routes.Blocks)
	if err := a.table.WaitIdle(ctx); err != nil {
		return fmt.Errorf("write routes: %w", err)
	}
	a.log.Info("restored", "endpoints", len(a.Endpoints()), "leases", len(held), "blocks", a.opts.Blocks)
	close(a.restored)
	a.kick()
	return nil
}

func (a *Agent) leasesByKey() map[Key][]ipam.Lease {
	byKey := make(map[Key][]ipam.Lease)
	for _, l := range a.leases.Leases() {
		k := Key{ContainerID: l.Key.ContainerID, Interface: l.Key.Interface}
		byKey[k] = append(byKey[k], l)
	}
	return byKey
}

// reconcileLoop frees leases whose container died without a detach.
func (a *Agent) reconcileLoop(ctx context.Context) error {
	tick := time.NewTicker(a.opts.Reconcile)
	defer tick.Stop()
	for {
		if err := a.reconcile(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("leases could not be compared with links", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reconcile compares leases with live links. A lease without a link is freed only when it was seen so twice in a
// row: a single look may fall between the two halves of an attach.
func (a *Agent) reconcile(ctx context.Context) error {
	live, err := a.wirer.List(ctx)
	if err != nil {
		return err
	}
	alive := make(map[string]bool, len(live))
	for _, l := range live {
		alive[l.HostLink] = true
	}
	suspects := make(map[Key]bool)
	for key := range a.leasesByKey() {
		if alive[endpoint.HostLink(key.ContainerID, key.Interface)] {
			continue
		}
		a.mu.Lock()
		seenBefore := a.suspects[key]
		a.mu.Unlock()
		if !seenBefore {
			suspects[key] = true
			continue
		}
		if err := a.freeOrphan(ctx, key); err != nil {
			suspects[key] = true
			a.log.Error("orphaned lease not freed, will be retried", "container", key.ContainerID, "interface", key.Interface, "err", err)
		}
	}
	a.mu.Lock()
	a.suspects = suspects
	a.mu.Unlock()
	return nil
}

// freeOrphan detaches a key whose link is gone. It looks once more under the key's lock: an attach that was under way
// at the last look may have wired the container since.
func (a *Agent) freeOrphan(ctx context.Context, key Key) error {
	unlock, err := a.keys.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	live, err := a.alive(ctx, endpoint.HostLink(key.ContainerID, key.Interface))
	if live || err != nil {
		return err
	}
	found, err := a.detach(ctx, key)
	if found {
		a.log.Info("freed the lease of a container that died without a detach", "container", key.ContainerID, "interface", key.Interface)
	}
	return err
}
