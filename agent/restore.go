package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// restore rebuilds the endpoints of an earlier run from the lease file and the kernel's links, and hands their routes to
// the table.
func (a *Agent) restore(ctx context.Context) error {
	live, err := a.wirer.List(ctx)
	if err != nil {
		return err
	}
	held := a.leasesByKey()
	taken := leasedAddrs(held)
	var hostRts []routes.Route
	for _, link := range live {
		al, err := parseAlias(link.Alias)
		if err != nil {
			a.log.Warn("container link without a record is left alone until its container is attached once more or detached", "link", link.HostLink, "err", err)
			continue
		}
		ep := Endpoint{Key: al.Key, Owner: al.Owner, HostInterface: link.HostLink, Addresses: leaseAddrs(held[al.Key]), MTU: link.MTU}
		if len(ep.Addresses) == 0 {
			// Its container lives, whatever became of its lease: it keeps its route, unless somebody has the address.
			ep.Addresses = slices.DeleteFunc(slices.Clone(link.Addrs), func(addr netip.Addr) bool { return taken[addr] })
			a.log.Error("container without a lease: it is left as it is, and its addresses are not handed out", "link", link.HostLink,
				"container", al.Key.ContainerID, "addresses", link.Addrs)
		}
		a.record(ep)
		hostRts = append(hostRts, hostRoutes(a.spec(ep, ep.Owner))...)
	}
	if err := a.recall(); err != nil {
		return err
	}
	a.findLapsed(held, live)
	a.table.Set(routes.Endpoints, hostRts)
	a.table.Synced(routes.Endpoints)
	if err := a.blocks.Restore(ctx); err != nil {
		return err
	}
	if err := a.table.WaitIdle(ctx); err != nil {
		return fmt.Errorf("write routes: %w", err)
	}
	if err := a.seeOthers(ctx, live, held); err != nil {
		return err
	}
	own, _ := a.blocks.Own()
	a.log.Info("restored", "endpoints", len(a.Endpoints()), "leases", len(held), "blocks", own)
	close(a.restored)
	return nil
}

// findLapsed finds the leases whose link went while no agent looked. A link that is there without its alias is what is left of an attach
// that nobody was told of.
func (a *Agent) findLapsed(held map[Key][]ipam.Lease, live []endpoint.Live) {
	links := make(map[string]bool, len(live))
	for _, l := range live {
		links[l.HostLink] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range held {
		if !links[endpoint.HostLink(key.ContainerID, key.Interface)] && !isReservation(key) {
			a.ended[key] = struct{}{}
		}
	}
}

// lapsed reports whether a key is of a container that ended while no agent looked, once.
func (a *Agent) lapsed(key Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, was := a.ended[key]
	delete(a.ended, key)
	return was
}

func (a *Agent) leasesByKey() map[Key][]ipam.Lease {
	byKey := make(map[Key][]ipam.Lease)
	for _, l := range a.leases.Leases() {
		k := Key{ContainerID: l.Key.ContainerID, Interface: l.Key.Interface}
		byKey[k] = append(byKey[k], l)
	}
	return byKey
}
