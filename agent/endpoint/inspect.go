package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Inspect verifies that the endpoint is as Wire leaves it: both links, their cable, MTU, addresses, neighbours and the
// container's default routes. A missing link is ErrNotFound, anything else that differs is named under ErrMismatch.
func (w *Wirer) Inspect(ctx context.Context, s Spec) (Endpoint, error) {
	if err := s.validate(); err != nil {
		return Endpoint{}, err
	}
	if err := ctx.Err(); err != nil {
		return Endpoint{}, err
	}
	ns, err := w.openNetns(s.Netns)
	if err != nil {
		return Endpoint{}, err
	}
	defer ns.Close()
	e := s.endpoint()
	if err := w.inspect(&e, ns); err != nil {
		return Endpoint{}, fmt.Errorf("inspect %s in %s: %w", s.ContainerLink, s.Netns, err)
	}
	return e, nil
}

func (w *Wirer) inspect(e *Endpoint, ns *os.File) error {
	inside, err := w.enter(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	host, err := getLink(w.host, e.HostLink)
	if err != nil {
		return fmt.Errorf("host end: %w", err)
	}
	in, err := getLink(inside, e.ContainerLink)
	if err != nil {
		return fmt.Errorf("container end: %w", err)
	}
	diff := e.compareLinks(host, in)
	if e.MTU == 0 {
		e.MTU = host.mtu
	}
	for _, side := range []struct {
		ns    *os.File
		check func(*netlink.Handle) ([]error, error)
	}{
		{w.home, func(h *netlink.Handle) ([]error, error) { return neighbours(h, host, e.Addrs, e.ContainerMAC) }},
		{ns, func(h *netlink.Handle) ([]error, error) { return e.compareContainer(h, in) }},
	} {
		found, err := withHandle(side.ns, side.check)
		if err != nil {
			return err
		}
		diff = append(diff, found...)
	}
	if err := errors.Join(diff...); err != nil {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return nil
}

func withHandle(ns *os.File, check func(*netlink.Handle) ([]error, error)) ([]error, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	defer h.Close()
	return check(h)
}

func (e *Endpoint) compareLinks(host, in link) []error {
	var diff []error
	differs := func(bad bool, format string, args ...any) {
		if bad {
			diff = append(diff, fmt.Errorf(format, args...))
		}
	}
	differs(host.kind != "veth" || in.kind != "veth" || host.peer != in.index || in.peer != host.index, "%s and %s are not ends of one cable", host.name, in.name)
	differs(!host.up, "%s is down", host.name)
	differs(!in.up, "%s is down", in.name)
	differs(host.group == Graveyard, "%s is about to be deleted", host.name)
	differs(host.alias != e.Alias, "%s has alias %q, not %q", host.name, host.alias, e.Alias)
	differs(!bytes.Equal(host.mac, e.HostMAC), "%s has MAC address %v, not %v", host.name, host.mac, e.HostMAC)
	differs(!bytes.Equal(in.mac, e.ContainerMAC), "%s has MAC address %v, not %v", in.name, in.mac, e.ContainerMAC)
	for _, l := range []link{host, in} {
		differs(e.MTU != 0 && l.mtu != e.MTU, "%s has MTU %d, not %d", l.name, l.mtu, e.MTU)
	}
	return diff
}

// compareContainer looks at addresses, gateway neighbours and default routes.
func (e *Endpoint) compareContainer(h *netlink.Handle, in link) ([]error, error) {
	attrs := netlink.LinkAttrs{Index: in.index, Name: in.name}
	addrs, err := dump(func() ([]netlink.Addr, error) {
		return h.AddrList(&netlink.Device{LinkAttrs: attrs}, netlink.FAMILY_ALL)
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var diff []error
	for _, a := range e.Addrs {
		want := netip.PrefixFrom(a, a.BitLen())
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { return prefix(have.IPNet) == want }) {
			diff = append(diff, fmt.Errorf("%s lacks address %v", in.name, want))
		}
	}
	v4, v6 := families(e.Addrs)
	found, err := neighbours(h, in, gateways(v4, v6), e.HostMAC)
	if err != nil {
		return nil, err
	}
	diff = append(diff, found...)
	for _, gateway := range gateways(v4, v6) {
		routes, err := dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(int(family(gateway)), &netlink.Route{LinkIndex: in.index}, netlink.RT_FILTER_OIF)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		i := slices.IndexFunc(routes, func(r netlink.Route) bool { return isDefault(r, gateway) })
		switch {
		case i < 0:
			diff = append(diff, fmt.Errorf("no default route via %v on %s", gateway, in.name))
		case routes[i].Priority == secondMetric+in.index:
			found, err := e.compareSecond(h, in, gateway)
			if err != nil {
				return nil, err
			}
			diff = append(diff, found...)
		}
	}
	return diff, nil
}

func isDefault(r netlink.Route, gateway netip.Addr) bool {
	return (r.Dst == nil || prefix(r.Dst).Bits() == 0) && r.Gw.Equal(gateway.AsSlice())
}

// neighbours checks for permanent entries that give addrs the MAC address.
func neighbours(h *netlink.Handle, l link, addrs []netip.Addr, mac net.HardwareAddr) ([]error, error) {
	list, err := dump(func() ([]netlink.Neigh, error) { return h.NeighList(l.index, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	var diff []error
	for _, a := range addrs {
		if !slices.ContainsFunc(list, func(n netlink.Neigh) bool {
			return n.IP.Equal(a.AsSlice()) && n.State&netlink.NUD_PERMANENT != 0 && bytes.Equal(n.HardwareAddr, mac)
		}) {
			diff = append(diff, fmt.Errorf("%s lacks the permanent neighbour %v at %v", l.name, a, mac))
		}
	}
	return diff, nil
}

// dump returns a listing that no change interrupted.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	err = rtnl.Uninterrupted(func() error {
		all, err = list()
		return err
	})
	return all, err
}

func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}
