package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
)

// reconcileLoop frees leases whose container died without a detach, and sets aside addresses that others use.
func (a *Agent) reconcileLoop(ctx context.Context) error {
	tick := time.NewTicker(a.opts.Reconcile)
	defer tick.Stop()
	for {
		began := time.Now()
		if err := a.reconcile(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("leases could not be compared with links", "err", err)
		}
		a.counters.reconcile.Store(int64(time.Since(began)))
		a.sumRefusals()
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
	before := a.leasesByKey()
	live, err := a.wirer.List(ctx)
	if err != nil {
		return err
	}
	held := a.leasesByKey()
	finished := a.finished(live)
	keys := make([]ipam.Key, 0, len(held))
	for key := range held {
		keys = append(keys, leaseKey(key))
	}
	wanted := func(k ipam.Key) bool {
		return finished(Key(k)) || a.awaited(Key(k))
	}
	for _, key := range a.orphans.Look(keys, wanted) {
		if err := a.freeOrphan(ctx, Key{ContainerID: key.ContainerID, Interface: key.Interface}); err != nil {
			a.log.Error("orphaned lease not freed, will be retried", "container", key.ContainerID, "interface", key.Interface, "err", err)
		}
	}
	for key, leases := range before {
		if _, still := held[key]; !still {
			held[key] = leases // released while the links were listed: its link may be in the list, but means nothing
		}
	}
	return a.seeOthers(ctx, live, held)
}

// finished tells which keys have a link that an attach has finished. A link says whose it is when all else of it is done: one that
// does not is what a crash left of an attach that nobody was told of, unless it is on record in this run.
func (a *Agent) finished(live []endpoint.Live) func(Key) bool {
	links := make(map[string]bool, len(live)) // with an alias or without
	for _, l := range live {
		links[l.HostLink] = l.Alias != ""
	}
	return func(key Key) bool {
		named, there := links[endpoint.HostLink(key.ContainerID, key.Interface)]
		if there && !named {
			_, there = a.Endpoint(key)
		}
		return there
	}
}

// freeOrphan detaches a key whose link is gone, or was never finished. It looks once more under the key's lock: an attach that was under way
// at the last look may have wired the container since.
func (a *Agent) freeOrphan(ctx context.Context, key Key) error {
	unlock, err := a.keys.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if isReservation(key) {
		// No more than the lease: whoever takes it over at this moment has the address, its route and its link.
		leases, err := a.leases.Release(leaseKey(key))
		if err != nil || len(leases) == 0 {
			return err
		}
		a.released(key, leases, "reserved, and never attached")
		a.log.Info("freed an address that was reserved and never attached", "reservation", key.ContainerID)
		return nil
	}
	live, err := a.wirer.List(ctx)
	if err != nil || a.finished(live)(key) {
		return err
	}
	found, err := a.detaching(key).detach(ctx, key, "found by reconciliation: its link is gone")
	if found {
		a.log.Info("freed the lease of a container that died without a detach", "container", key.ContainerID, "interface", key.Interface)
	}
	return err
}

// seeOthers sets aside the addresses of our blocks that are in use without a lease: by containers whose lease was lost, and by what is
// not ours at all. What is no longer in use stays set aside until a second look confirms it.
func (a *Agent) seeOthers(ctx context.Context, live []endpoint.Live, held map[Key][]ipam.Lease) error {
	own, host := a.blocks.Own()
	others, err := a.wirer.Others(ctx, own, host)
	if err != nil {
		return fmt.Errorf("look for others that use our addresses: %w", err)
	}
	seen := strangers(live, held, own)
	for _, o := range others {
		seen = append(seen, ipam.InUse{Prefix: o.Prefix, By: o.By})
	}
	set := slices.Clone(seen)
	for _, old := range a.aliens {
		if !slices.ContainsFunc(seen, func(u ipam.InUse) bool { return u.Prefix == old.Prefix }) {
			set = append(set, old)
		}
	}
	for _, u := range seen {
		if !slices.ContainsFunc(a.aliens, func(old ipam.InUse) bool { return u == old }) {
			a.log.Warn("addresses are in use without a lease and are not handed out", "addresses", u.Prefix, "by", u.By)
		}
	}
	a.aliens = seen
	a.leases.SetInUse(set)
	return nil
}

// Occupant names something that has addresses of a prefix now, leased or not: a living container, or anything else on the
// host. Empty if there is nothing.
func Occupant(ctx context.Context, w Wirer, prefix netip.Prefix, host []netip.Addr) (string, error) {
	live, err := w.List(ctx)
	if err != nil {
		return "", fmt.Errorf("list container links: %w", err)
	}
	for _, l := range live {
		if i := slices.IndexFunc(l.Addrs, prefix.Contains); i >= 0 {
			return fmt.Sprintf("a container on link %s has %s", l.HostLink, l.Addrs[i]), nil
		}
	}
	others, err := w.Others(ctx, []netip.Prefix{prefix}, host)
	if err != nil {
		return "", fmt.Errorf("look for others that use addresses of %s: %w", prefix, err)
	}
	if len(others) > 0 {
		return fmt.Sprintf("%s is in use: %s", others[0].Prefix, others[0].By), nil
	}
	return "", nil
}

// strangers are the addresses on container links that no lease of their container has.
func strangers(live []endpoint.Live, held map[Key][]ipam.Lease, own []netip.Prefix) []ipam.InUse {
	var out []ipam.InUse
	for _, l := range live {
		by := "link " + l.HostLink + ", whose container is not known"
		var leases []netip.Addr
		if al, err := parseAlias(l.Alias); err == nil {
			by = fmt.Sprintf("container %s, which has no lease", al.Key)
			leases = leaseAddrs(held[al.Key])
		} else if key, ok := leaseholder(l.HostLink, held); ok {
			leases = leaseAddrs(held[key])
		}
		for _, addr := range l.Addrs {
			if !slices.Contains(leases, addr) && slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(addr) }) {
				out = append(out, inUse(addr, by))
			}
		}
	}
	return out
}

// leaseholder finds whose a host link is by its name. While it is wired it has no record yet, and it keeps none if a crash comes in
// between.
func leaseholder(hostLink string, held map[Key][]ipam.Lease) (Key, bool) {
	for key := range held {
		if endpoint.HostLink(key.ContainerID, key.Interface) == hostLink {
			return key, true
		}
	}
	return Key{}, false
}

func inUse(addr netip.Addr, by string) ipam.InUse {
	return ipam.InUse{Prefix: netip.PrefixFrom(addr, addr.BitLen()), By: by}
}

func leasedAddrs(held map[Key][]ipam.Lease) map[netip.Addr]bool {
	taken := make(map[netip.Addr]bool, len(held))
	for _, leases := range held {
		for _, l := range leases {
			taken[l.Addr] = true
		}
	}
	return taken
}
