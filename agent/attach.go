package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// Attach connects a container's interface to the fabric: lease, veth, host route, in that order and each undone if a
// later one fails. A repeated key returns the recorded endpoint if it still is as it was left, and repairs it if its
// link died with an earlier namespace.
func (a *Agent) Attach(ctx context.Context, req AttachRequest) (_ Endpoint, err error) {
	v := a.attaching(req)
	defer func() { v.end(err) }()
	if err := req.validate(); err != nil {
		return Endpoint{}, err
	}
	if err := a.awaitReady(ctx); err != nil {
		return Endpoint{}, err
	}
	unlock, err := a.keys.Lock(ctx, req.Key)
	if err != nil {
		return Endpoint{}, fmt.Errorf("attach %s: waiting for another request on it: %w", req.Key, err)
	}
	defer unlock()

	if err := a.awaitRetired(ctx, req.Key); err != nil {
		return Endpoint{}, fmt.Errorf("attach %s: waiting for its last detach: %w", req.Key, err)
	}
	detail := ""
	if ep, ok := a.Endpoint(req.Key); ok {
		done, err := a.again(ctx, ep, req)
		if err != nil || done.HostInterface != "" {
			return done, err
		}
		if req.Empty() {
			req.Description = ep.Description
		}
		detail = "wired anew: its earlier link was gone"
	}
	if err := a.refused(); err != nil {
		return Endpoint{}, fmt.Errorf("attach %s: %w", req.Key, err)
	}
	ep, err := a.attach(ctx, req)
	if err != nil {
		return Endpoint{}, err
	}
	v.did(eventOf(history.Attach, ep), detail)
	a.log.Info("attached", "container", ep.ContainerID, "interface", ep.Interface, "addresses", ep.Addresses, "link", ep.HostInterface)
	return ep, nil
}

// again answers a repeated attach. A zero endpoint and no error mean that the old one is dead and can be wired anew.
func (a *Agent) again(ctx context.Context, ep Endpoint, req AttachRequest) (Endpoint, error) {
	if slices.ContainsFunc(req.Addresses, func(wanted netip.Addr) bool { return !slices.Contains(ep.Addresses, wanted.Unmap()) }) {
		return Endpoint{}, fmt.Errorf("attach %s: %w: it has %v", req.Key, ErrMismatch, ep.Addresses)
	}
	if i := slices.IndexFunc(ep.Addresses, func(addr netip.Addr) bool { return !req.Family.Has(addr) }); i >= 0 {
		return Endpoint{}, fmt.Errorf("attach %s: %w: it has %s, not only addresses of family %s", req.Key, ErrMismatch, ep.Addresses[i], req.Family)
	}
	if leases, held := a.leases.Lookup(leaseKey(req.Key)); held && req.Pool != "" && leases[0].Pool != "" && leases[0].Pool != req.Pool {
		return Endpoint{}, fmt.Errorf("attach %s: %w: its addresses are of pool %s", req.Key, ErrMismatch, leases[0].Pool)
	}
	if req.Offer {
		return a.offered(ctx, ep, req)
	}
	spec := a.spec(ep, req.Owner)
	spec.Netns = req.Netns
	if req.MTU != 0 {
		spec.MTU = req.MTU
	}
	wired, err := a.wirer.Inspect(ctx, spec)
	if err == nil {
		return a.recorded(ep, wired, req.Description)
	}
	live, listErr := a.alive(ctx, ep.HostInterface)
	if listErr != nil {
		return Endpoint{}, listErr
	}
	if live && ep.Netns != "" && ep.Netns != req.Netns {
		return Endpoint{}, fmt.Errorf("attach %s: %w: it is in namespace %s, detach it first", req.Key, ErrMismatch, ep.Netns)
	}
	if live {
		return Endpoint{}, fmt.Errorf("attach %s: %w: it is attached but not as recorded, detach it first: %w", req.Key, ErrMismatch, err)
	}
	a.log.Info("link of an attached container is gone, wiring it anew", "container", req.ContainerID, "interface", req.Interface)
	return Endpoint{}, nil
}

// offered is again for what the runtime has placed where it likes: its host link tells whether it lives.
func (a *Agent) offered(ctx context.Context, ep Endpoint, req AttachRequest) (Endpoint, error) {
	if ep.Owner != req.Owner {
		return Endpoint{}, fmt.Errorf("attach %s: %w: it belongs to %s", req.Key, ErrMismatch, ep.Owner)
	}
	if len(req.Addresses) < len(ep.Addresses) { // all that are wanted are among them
		return Endpoint{}, fmt.Errorf("attach %s: %w: it has %v", req.Key, ErrMismatch, ep.Addresses)
	}
	live, err := a.alive(ctx, ep.HostInterface)
	if err != nil || !live {
		return Endpoint{}, err
	}
	if mac := req.MAC.String(); mac != "" && ep.MAC != "" && mac != ep.MAC {
		return Endpoint{}, fmt.Errorf("attach %s: %w: it has MAC address %s", req.Key, ErrMismatch, ep.MAC)
	}
	return ep, nil
}

func (a *Agent) attach(ctx context.Context, req AttachRequest) (_ Endpoint, err error) {
	var undo undoStack
	defer func() {
		if undoErr := undo.run(ctx); undoErr != nil {
			err = errors.Join(err, fmt.Errorf("undo attach %s: %w", req.Key, undoErr))
		}
	}()

	leases, held, err := a.lease(ctx, req)
	if err != nil {
		return Endpoint{}, fmt.Errorf("attach %s: %w", req.Key, translate(err))
	}
	stranded := false // the link could not be removed: its address must not be given again
	if !held {
		undo.push(func(context.Context) error {
			if stranded {
				return fmt.Errorf("lease of %v is kept, its link is still there", leaseAddrs(leases))
			}
			leases, err := a.leases.Release(leaseKey(req.Key))
			a.released(req.Key, leases, "its attach failed")
			return err
		})
	}

	mtu := req.MTU
	if mtu == 0 {
		mtu = a.opts.MTU()
	}
	spec := a.spec(Endpoint{Key: req.Key, Netns: req.Netns, HostInterface: endpoint.HostLink(req.ContainerID, req.Interface), Addresses: leaseAddrs(leases), MTU: mtu}, req.Owner)
	if spec.MAC = req.MAC; req.Offer {
		spec.ContainerLink = endpoint.OfferedLink(spec.HostLink)
	}
	wired, err := a.wire(ctx, spec, req.Offer)
	if err != nil {
		return Endpoint{}, fmt.Errorf("attach %s: %w", req.Key, translate(err))
	}
	undo.push(func(ctx context.Context) error {
		gone, err := a.wirer.Retire(ctx, spec.HostLink, spec.Addrs)
		if err == nil {
			err = waitClosed(ctx, gone)
		}
		stranded = err != nil
		return err
	})

	for _, r := range hostRoutes(spec) {
		undo.push(func(ctx context.Context) error { return a.table.Delete(ctx, routes.Endpoints, r.Prefix) })
		if err := a.table.Upsert(ctx, routes.Endpoints, r); err != nil {
			return Endpoint{}, fmt.Errorf("attach %s: route %s: %w", req.Key, r.Prefix, err)
		}
	}

	ep := fromWired(req.Key, req.Owner, wired)
	if !req.Empty() {
		ep.Description = req.clone()
		if err := a.opts.Notes.Put(ep.HostInterface, ep.Description); err != nil {
			return Endpoint{}, fmt.Errorf("attach %s: %w: %w", req.Key, ErrStorage, err)
		}
	}
	a.record(ep)
	undo.keep()
	return ep, nil
}

// recorded answers a repeated attach with what is there. A description takes the place of the earlier one.
func (a *Agent) recorded(ep Endpoint, wired endpoint.Endpoint, d Description) (Endpoint, error) {
	now := fromWired(ep.Key, ep.Owner, wired)
	now.Description = ep.Description
	if d.Empty() {
		return now, nil
	}
	if err := a.describe(ep, d); err != nil {
		return Endpoint{}, err
	}
	now.Description = d
	return now, nil
}

func (a *Agent) wire(ctx context.Context, spec endpoint.Spec, offer bool) (endpoint.Endpoint, error) {
	if offer {
		return a.wirer.Offer(ctx, spec)
	}
	leaving := a.leaving(spec.Netns, spec.ContainerLink) // before the try: what left earlier cannot be in its way
	wired, err := a.wirer.Wire(ctx, spec)
	if !errors.Is(err, endpoint.ErrLinkExists) || len(leaving) == 0 {
		return wired, err
	}
	for _, released := range leaving {
		if waitErr := waitClosed(ctx, released); waitErr != nil {
			return wired, errors.Join(err, waitErr)
		}
	}
	return a.wirer.Wire(ctx, spec)
}

// Check verifies that an attachment is as Attach left it.
func (a *Agent) Check(ctx context.Context, req CheckRequest) (Endpoint, error) {
	if err := errors.Join(req.Validate(), validNetns(req.Netns)); err != nil {
		return Endpoint{}, err
	}
	if err := a.awaitReady(ctx); err != nil {
		return Endpoint{}, err
	}
	unlock, err := a.keys.Lock(ctx, req.Key)
	if err != nil {
		return Endpoint{}, fmt.Errorf("check %s: %w", req.Key, err)
	}
	defer unlock()

	ep, ok := a.Endpoint(req.Key)
	if !ok {
		return Endpoint{}, fmt.Errorf("check %s: %w", req.Key, ErrNotFound)
	}
	spec := a.spec(ep, ep.Owner)
	spec.Netns = req.Netns
	wired, err := a.wirer.Inspect(ctx, spec)
	if err != nil {
		return Endpoint{}, fmt.Errorf("check %s: %w", req.Key, translate(err))
	}
	for _, r := range hostRoutes(spec) {
		if err := a.table.Upsert(ctx, routes.Endpoints, r); err != nil {
			return Endpoint{}, fmt.Errorf("check %s: route %s: %w", req.Key, r.Prefix, err)
		}
	}
	checked := fromWired(req.Key, ep.Owner, wired)
	checked.Description = ep.Description
	return checked, nil
}

func (a *Agent) spec(ep Endpoint, owner string) endpoint.Spec {
	return endpoint.Spec{
		HostLink: ep.HostInterface, ContainerLink: ep.Interface, Netns: ep.Netns,
		Addrs: ep.Addresses, MTU: ep.MTU, Alias: alias{ep.Key, owner}.String(),
	}
}

func (a *Agent) alive(ctx context.Context, hostLink string) (bool, error) {
	live, err := a.wirer.List(ctx)
	if err != nil {
		return false, fmt.Errorf("list container links: %w", err)
	}
	return slices.ContainsFunc(live, func(l endpoint.Live) bool { return l.HostLink == hostLink }), nil
}

func fromWired(key Key, owner string, w endpoint.Endpoint) Endpoint {
	ep := Endpoint{
		Key: key, Owner: owner, Netns: w.Netns, HostInterface: w.HostLink, MAC: w.ContainerMAC.String(), HostMAC: w.HostMAC.String(),
		Addresses: w.Addrs, MTU: w.MTU,
	}
	for _, addr := range w.Addrs {
		ep.Gateways = append(ep.Gateways, Gateway(addr))
	}
	return ep
}

// hostRoutes are the host's own way to a container: its addresses on its link. They never leave the host.
func hostRoutes(spec endpoint.Spec) []routes.Route {
	rs := make([]routes.Route, len(spec.Addrs))
	for i, addr := range spec.Addrs {
		rs[i] = routes.Route{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Kind: routes.Unicast, NextHops: []routes.NextHop{{Link: spec.HostLink}}}
	}
	return rs
}

func leaseKey(k Key) ipam.Key { return ipam.Key{ContainerID: k.ContainerID, Interface: k.Interface} }

func leaseAddrs(leases []ipam.Lease) []netip.Addr {
	addrs := make([]netip.Addr, len(leases))
	for i, l := range leases {
		addrs[i] = l.Addr
	}
	return addrs
}

func compareKeys(x, y Key) int {
	return cmp.Or(cmp.Compare(x.ContainerID, y.ContainerID), cmp.Compare(x.Interface, y.Interface))
}

func waitClosed(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// containerID is the CNI specification's alphabet; the length is what a lease slot holds.
var containerID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,127}$`)

// Validate reports a key that there cannot be, as ErrInvalid.
func (k Key) Validate() error {
	if !containerID.MatchString(k.ContainerID) {
		return fmt.Errorf("%w: container ID %.64q: want 1 to 128 of a-z A-Z 0-9 _ . -, starting with a letter or digit", ErrInvalid, k.ContainerID)
	}
	if err := endpoint.ValidateLinkName(k.Interface); err != nil {
		return fmt.Errorf("%w: interface: %w", ErrInvalid, err)
	}
	return nil
}

func validNetns(path string) error {
	if !filepath.IsAbs(path) || len(path) > unix.PathMax || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%w: namespace path %.128q: want an absolute path such as /run/netns/NAME", ErrNetns, path)
	}
	return nil
}

// ValidatePool refuses what cannot be the name of a pool; empty stands for the default one.
func ValidatePool(name string) error {
	if name == "" {
		return nil
	}
	if err := ipam.ValidPool(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func validFamily(f ipam.Family) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// Endpoint MTU bounds in bytes: IPv4's minimum reassembly size (RFC 791) and the kernel's maximum for veth.
const minMTU, maxMTU = 576, 65535

// validPlace sees to it that the container's end goes either into a namespace or nowhere yet.
func (r AttachRequest) validPlace() error {
	switch {
	case !r.Offer && (r.MAC != nil || r.Reserved):
		return fmt.Errorf("%w: a MAC address or a reservation for a link that is not offered", ErrInvalid)
	case !r.Offer:
		return validNetns(r.Netns)
	case r.Netns != "":
		return fmt.Errorf("%w: namespace %.128q for a link that is to be offered", ErrInvalid, r.Netns)
	}
	return nil
}

func (r AttachRequest) validate() error {
	if err := errors.Join(r.Key.Validate(), r.validPlace(), ValidatePool(r.Pool), validFamily(r.Family), r.Description.Validate()); err != nil {
		return err
	}
	return ValidateMTU(r.MTU)
}

// ValidateMTU refuses what an endpoint cannot have; 0 stands for the uplink's.
func ValidateMTU(mtu int) error {
	if mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		return fmt.Errorf("%w: mtu %d: want %d to %d bytes, or 0 for the uplink's", ErrInvalid, mtu, minMTU, maxMTU)
	}
	return nil
}
