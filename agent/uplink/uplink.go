// Package uplink finds the links that lead to the BGP peers, and what new endpoints inherit from them.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// DefaultMTU is Ethernet's, in bytes (RFC 894): what an endpoint gets while no uplink can be found.
const DefaultMTU = 1500

// Link is an interface with a peer behind it.
type Link struct {
	Name      string
	MTU       int            // bytes
	Addresses []netip.Prefix // as configured on the link
}

// ErrNotConnected means that no interface has a subnet with the peer in it.
var ErrNotConnected = errors.New("no interface is connected to it")

// To finds the link of a directly connected peer: by zone for a link-local address, by the kernel's route otherwise.
func To(peer netip.Addr) (Link, error) {
	link, err := linkTo(peer)
	if err != nil {
		return Link{}, err
	}
	attrs := link.Attrs()
	addrs, err := addresses(link)
	return Link{Name: attrs.Name, MTU: attrs.MTU, Addresses: addrs}, err
}

func linkTo(peer netip.Addr) (netlink.Link, error) {
	if zone := peer.Zone(); zone != "" {
		link, err := netlink.LinkByName(zone)
		if err != nil {
			return nil, fmt.Errorf("link of peer %s: %w", peer, err)
		}
		return link, nil
	}
	routes, err := netlink.RouteGet(peer.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].Gw != nil || routes[0].Via != nil {
		return nil, fmt.Errorf("peer %s: %w", peer, errors.Join(ErrNotConnected, err))
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return nil, fmt.Errorf("link of peer %s: %w", peer, err)
	}
	return link, nil
}

// Found are the links to the peers.
type Found struct {
	Names []string // sorted
	MTU   int      // the smallest, in bytes; DefaultMTU where no link is found
}

// Find looks for the links to the peers.
func Find(peers []netip.Addr) Found {
	var f Found
	for _, p := range peers {
		link, err := linkTo(p)
		if err != nil {
			continue
		}
		f.Names = append(f.Names, link.Attrs().Name)
		if f.MTU == 0 || link.Attrs().MTU < f.MTU {
			f.MTU = link.Attrs().MTU
		}
	}
	if f.MTU == 0 {
		f.MTU = DefaultMTU
	}
	slices.Sort(f.Names)
	f.Names = slices.Compact(f.Names)
	return f
}

// Watch follows the links to the peers, so that an attach need not ask the kernel.
type Watch struct {
	peers atomic.Pointer[[]netip.Addr]
	found atomic.Pointer[Found]
}

// watchInterval is how soon a changed uplink is noticed. It matters to endpoints that are attached later only.
const watchInterval = 5 * time.Second

// NewWatch looks once; Run goes on looking.
func NewWatch(peers []netip.Addr) *Watch {
	w := &Watch{}
	w.SetPeers(peers)
	return w
}

// SetPeers goes on with the links to other peers.
func (w *Watch) SetPeers(peers []netip.Addr) {
	w.peers.Store(&peers)
	w.look()
}

func (w *Watch) look() {
	found := Find(*w.peers.Load())
	w.found.Store(&found)
}

// Found is what was found last. Nobody changes it.
func (w *Watch) Found() Found { return *w.found.Load() }

// Run looks again from time to time until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.look()
		}
	}
}

// GlobalIPv6 is a global or unique local IPv6 address of the link, or the zero Addr.
func (l Link) GlobalIPv6() netip.Addr {
	for _, p := range l.Addresses {
		if a := p.Addr(); a.Is6() && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			return a
		}
	}
	return netip.Addr{}
}

// RouterID derives a BGP identifier (RFC 6286: unique in the AS, not zero) from this machine's IPv4 addresses: one
// towards the peers, in their order, else any other that is not in the host's own blocks, whose addresses come and go.
func RouterID(peers []netip.Addr, blocks []netip.Prefix) (netip.Addr, error) {
	for _, peer := range peers {
		link, err := To(peer)
		if err != nil {
			continue
		}
		if a, ok := routerID(link.Addresses, blocks); ok {
			return a, nil
		}
	}
	all, err := addresses(nil)
	if err != nil {
		return netip.Addr{}, err
	}
	if a, ok := routerID(all, blocks); ok {
		return a, nil
	}
	return netip.Addr{}, errors.New("no IPv4 address to take a BGP identifier from: set router_id")
}

func routerID(addrs, blocks []netip.Prefix) (netip.Addr, bool) {
	for _, p := range addrs {
		a := p.Addr()
		ours := slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a) })
		if a.Is4() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !ours {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// addresses are those of a link, or of all links for nil.
func addresses(link netlink.Link) ([]netip.Prefix, error) {
	var list []netlink.Addr
	err := rtnl.Uninterrupted(func() (err error) {
		list, err = netlink.AddrList(link, netlink.FAMILY_ALL) //nolint:forbidigo // retried here
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Prefix
	for _, l := range list {
		if a, ok := netip.AddrFromSlice(l.IP); ok {
			bits, _ := l.Mask.Size()
			out = append(out, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return out, nil
}
