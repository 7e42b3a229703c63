package tor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// KernelPrefixes implements Tor for every kind.
func (p processes) KernelPrefixes(ctx context.Context, within ...netip.Prefix) ([]netip.Prefix, error) {
	all, err := p.KernelRoutes(ctx, within...)
	if err != nil {
		return nil, err
	}
	var found []netip.Prefix
	for _, r := range all {
		found = append(found, r.Prefix)
	}
	return sorted(found), nil
}

// KernelRoutes implements Tor for every kind.
func (p processes) KernelRoutes(ctx context.Context, within ...netip.Prefix) ([]KernelRoute, error) {
	var found []KernelRoute
	err := p.node.NS.Do(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := listRoutes(ctx, family)
			if err != nil {
				return fmt.Errorf("router %s: list kernel routes: %w", p.node.Name, err)
			}
			for _, r := range routes {
				if prefix := destination(r); usable(r) && inside(prefix, within) {
					found = append(found, KernelRoute{prefix, nextHops(r)})
				}
			}
		}
		return nil
	})
	slices.SortFunc(found, func(a, b KernelRoute) int { return a.Prefix.Compare(b.Prefix) })
	return found, err
}

// nextHops are the addresses of a route's usable next hops.
func nextHops(r netlink.Route) []netip.Addr {
	var all []netip.Addr
	add := func(ip net.IP) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			all = append(all, a.Unmap())
		}
	}
	if len(r.MultiPath) == 0 {
		add(r.Gw)
	}
	for _, hop := range r.MultiPath {
		if hop.Flags&hopDown == 0 {
			add(hop.Gw)
		}
	}
	return all
}

// hopDown are the flags of a next hop that packets cannot leave by.
const hopDown = unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN

// listRoutes repeats a listing that a change interrupted: only an undisturbed one is complete.
func listRoutes(ctx context.Context, family int) ([]netlink.Route, error) {
	for {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE) //nolint:forbidigo // the one retrying reader
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return routes, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// usable reports whether somebody else than the kernel put the route there and packets can leave by it.
func usable(r netlink.Route) bool {
	if r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
		return false
	}
	if len(r.MultiPath) == 0 {
		return r.Flags&hopDown == 0
	}
	return slices.ContainsFunc(r.MultiPath, func(hop *netlink.NexthopInfo) bool { return hop.Flags&hopDown == 0 })
}

func destination(r netlink.Route) netip.Prefix {
	if r.Dst == nil {
		if r.Family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return fromIPNet(r.Dst)
}

func fromIPNet(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// inside reports whether p is equal to or inside one of the spaces.
func inside(p netip.Prefix, spaces []netip.Prefix) bool {
	return p.IsValid() && slices.ContainsFunc(spaces, func(s netip.Prefix) bool {
		return s.Bits() <= p.Bits() && s.Contains(p.Addr())
	})
}

func sorted(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}
