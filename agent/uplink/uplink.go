// Package uplink finds the links that lead to the BGP peers, and what new endpoints inherit from them.
package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

// To finds the link of a directly connected peer: by zone for a link-local address, by connected subnet otherwise.
func To(peer netip.Addr) (Link, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return Link{}, fmt.Errorf("list interfaces: %w", err)
	}
	for _, ifc := range ifaces {
		link := Link{Name: ifc.Name, MTU: ifc.MTU, Addresses: prefixes(ifc)}
		if peer.Zone() == ifc.Name {
			return link, nil
		}
		for _, p := range link.Addresses {
			if p.Contains(peer.WithZone("")) && !p.Addr().IsLinkLocalUnicast() {
				return link, nil
			}
		}
	}
	return Link{}, fmt.Errorf("peer %s: %w", peer, ErrNotConnected)
}

// MTU is the smallest MTU among the links to the peers, in bytes; DefaultMTU where none is found.
func MTU(peers []netip.Addr) int {
	smallest := 0
	for _, p := range peers {
		if link, err := To(p); err == nil && (smallest == 0 || link.MTU < smallest) {
			smallest = link.MTU
		}
	}
	if smallest == 0 {
		return DefaultMTU
	}
	return smallest
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
	ifaces, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list interfaces: %w", err)
	}
	for _, ifc := range ifaces {
		if a, ok := routerID(prefixes(ifc), blocks); ok {
			return a, nil
		}
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

func prefixes(ifc net.Interface) []netip.Prefix {
	addrs, err := ifc.Addrs()
	if err != nil {
		return nil // the interface went away between two calls
	}
	var out []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p)
		}
	}
	return out
}
