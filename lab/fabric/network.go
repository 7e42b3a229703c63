package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/vishvananda/netlink"
)

// sysctls are set in every router and host before it is cabled, so that its interfaces start with them. Paths below
// /proc/sys/net; those of IPv6 are left out where the kernel has none.
var sysctls = []struct{ path, value string }{
	{"ipv4/ip_forward", "1"},
	{"ipv4/fib_multipath_hash_policy", "1"}, // spread flows by ports too (L4), else a host's containers share one leg
	{"ipv4/conf/all/rp_filter", "0"},        // the way back may lead through the other router
	{"ipv4/conf/default/rp_filter", "0"},
	{"ipv4/conf/all/ignore_routes_with_linkdown", "1"},
	{"ipv4/conf/default/ignore_routes_with_linkdown", "1"},
	{"ipv6/conf/all/forwarding", "1"},
	{"ipv6/conf/default/forwarding", "1"},
	{"ipv6/fib_multipath_hash_policy", "1"},
	{"ipv6/conf/default/accept_dad", "0"}, // link-local addresses work at once
	{"ipv6/conf/all/ignore_routes_with_linkdown", "1"},
	{"ipv6/conf/default/ignore_routes_with_linkdown", "1"},
	{"ipv6/conf/default/keep_addr_on_down", "1"}, // a router that was switched off and on again has its addresses
}

// prepare sets a router's or host's namespace up for forwarding.
func prepare(ns netns.NS) error {
	return ns.Do(func() error {
		for _, s := range sysctls {
			err := os.WriteFile(filepath.Join("/proc/sys/net", s.path), []byte(s.value), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("namespace %s: set net/%s to %s: %w", ns.Name, s.path, s.value, err)
			}
		}
		return nil
	})
}

// network creates what has neither processes nor state: namespaces and cables.
func (b *builder) network(ctx context.Context) error {
	p := b.plan
	var nodes, containers []netns.NS
	for _, r := range p.Routers() {
		nodes = append(nodes, r.NS)
	}
	for _, h := range p.AllHosts() {
		nodes = append(nodes, h.NS)
		for _, c := range h.Containers {
			containers = append(containers, c.NS)
		}
	}
	if p.Source == Etcd {
		containers = append(containers, p.namespace(etcdName)) // like theirs, it is not set up for forwarding
	}
	total := len(nodes) + len(containers)
	for i, ns := range append(nodes, containers...) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := netns.Create(ns.Name); err != nil {
			return err
		}
		if i < len(nodes) {
			if err := prepare(ns); err != nil {
				return err
			}
		}
		b.report("namespaces", i+1, total)
	}
	return b.cables(ctx)
}

func (b *builder) cables(ctx context.Context) error {
	var uplinks []struct {
		ns   netns.NS
		link Link
	}
	add := func(ns netns.NS, links []Link) {
		for _, l := range links {
			if l.Up {
				uplinks = append(uplinks, struct {
					ns   netns.NS
					link Link
				}{ns, l})
			}
		}
	}
	for _, r := range b.plan.Routers() {
		add(r.NS, r.Links)
	}
	for _, h := range b.plan.AllHosts() {
		add(h.NS, h.Links)
	}
	for i, u := range uplinks {
		if err := ctx.Err(); err != nil {
			return err
		}
		upper := u.link.otherEnd()
		if err := netns.Cable(
			netns.End{NS: b.plan.namespace(u.link.Peer), Link: upper.Name, Addresses: upper.addresses()},
			netns.End{NS: u.ns, Link: u.link.Name, Addresses: u.link.addresses()},
		); err != nil {
			return err
		}
		b.report("cables", i+1, len(uplinks))
	}
	return nil
}

// otherEnd is the name and the addresses of the link's other end.
func (l Link) otherEnd() Link {
	o := Link{Name: l.PeerLink, Addr: other(l.Addr), Unnumbered: l.Unnumbered}
	if l.Addr6.IsValid() {
		o.Addr6 = other(l.Addr6)
	}
	return o
}

func (l Link) addresses() []string {
	if l.Unnumbered {
		return nil
	}
	if !l.Addr6.IsValid() {
		return []string{l.Addr.String()}
	}
	return []string{l.Addr.String(), l.Addr6.String()}
}

// setLinks sets all links of a node up or down.
func setLinks(ns netns.NS, links []Link, up bool) error {
	return ns.Do(func() error {
		for _, l := range links {
			link, err := netlink.LinkByName(l.Name)
			if err != nil {
				return fmt.Errorf("%s in namespace %s: %w", l.Name, ns.Name, err)
			}
			set := netlink.LinkSetDown
			if up {
				set = netlink.LinkSetUp
			}
			if err := set(link); err != nil {
				return fmt.Errorf("%s in namespace %s: set up=%t: %w", l.Name, ns.Name, up, err)
			}
		}
		return nil
	})
}
