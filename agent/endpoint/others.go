package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Use is something in the host's network namespace that has addresses of a block although it is not ours.
type Use struct {
	Prefix netip.Prefix
	By     string // "address of eth0", "route to 10.64.0.16/28 by docker0 (proto kernel, table main)"
}

// Others lists what uses addresses of the blocks without being ours, sorted by prefix: addresses of any link, and routes
// of any table to a whole block or a part of one. Not listed are the addresses in own and those with our mark, and
// routes with our protocol.
//
// A route counts whatever its type, since local and anycast routes take packets too, but for blackhole, unreachable,
// prohibit and throw: nobody lives behind these. What the kernel adds for an address (it is local, and its network has a
// broadcast or anycast address) is left out where the address or a route to its network is listed or ours.
func (w *Wirer) Others(ctx context.Context, blocks []netip.Prefix, own []netip.Addr) ([]Use, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	addrs, err := listAddresses(w.list, 0)
	if err != nil {
		return nil, err
	}
	names := linkNames{conn: w.list, known: make(map[int]string)}
	onLinks := make(map[netip.Addr]bool, len(addrs))
	var uses []Use
	for _, a := range addrs {
		ip := a.prefix.Addr()
		onLinks[ip] = true
		if !a.marked && !slices.Contains(own, ip) && slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(ip) }) {
			uses = append(uses, Use{netip.PrefixFrom(ip, ip.BitLen()), "address of " + names.of(a.index)})
		}
	}
	claims, err := w.claims(ctx, blocks)
	if err != nil {
		return nil, err
	}
	for _, r := range claims {
		if r.derived() && (onLinks[r.dst.Addr()] || slices.ContainsFunc(claims, func(o route) bool { return !o.derived() && o.dst.Contains(r.dst.Addr()) })) {
			continue
		}
		uses = append(uses, Use{r.dst, r.describe(&names)})
	}
	slices.SortFunc(uses, func(a, b Use) int {
		if order := a.Prefix.Compare(b.Prefix); order != 0 {
			return order
		}
		return strings.Compare(a.By, b.By)
	})
	return slices.Compact(uses), nil
}

// claims lists the routes that take addresses of the blocks.
func (w *Wirer) claims(ctx context.Context, blocks []netip.Prefix) ([]route, error) {
	var all []route
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		of := slices.DeleteFunc(slices.Clone(blocks), func(b netip.Prefix) bool { return b.Addr().Is4() != (family == unix.AF_INET) })
		if len(of) == 0 || family == unix.AF_INET6 && !w.ipv6 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var b rtnl.Batch
		b.Begin(unix.RTM_GETROUTE, 0)
		b.Route(rtnl.RouteHeader{Family: family})
		first := len(all)
		err := w.list.Dump(&b, func() { all = all[:first] }, func(m rtnl.Message) {
			if r, ok := parseForeign(m); ok && slices.ContainsFunc(of, r.within) {
				all = append(all, r)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
	}
	return all, nil
}

// UsedBy returns what has an address of a block without being ours, as Others lists it, or the zero Use if the host's
// packets to it find no route but ours and those to more than the block. It costs one request. The host's own addresses
// are in use, with our mark too: a lookup does not show it.
func (w *Wirer) UsedBy(ctx context.Context, addr netip.Addr, block netip.Prefix) (Use, error) {
	if err := ctx.Err(); err != nil {
		return Use{}, err
	}
	if !block.Contains(addr) {
		return Use{}, fmt.Errorf("%w: address %v is not in block %v", ErrInvalid, addr, block)
	}
	var b rtnl.Batch
	flags := uint32(unix.RTM_F_FIB_MATCH)
	if addr.Is4() {
		flags |= unix.RTM_F_LOOKUP_TABLE // else it is said to be the main table; IPv6 refuses the wish and fulfils it
	}
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Route(rtnl.RouteHeader{Family: family(addr), Bits: uint8(addr.BitLen()), Flags: flags})
	b.IP(unix.RTA_DST, addr)
	var r route
	foreign := false
	err := w.host.One(&b, func(m rtnl.Message) { r, foreign = parseForeign(m) })
	if err != nil && !nowhere(err) {
		return Use{}, fmt.Errorf("look up the route to %v: %w", addr, err)
	}
	if !foreign || !r.within(block) {
		return Use{}, nil
	}
	names := linkNames{conn: w.host, known: make(map[int]string)}
	return Use{r.dst, r.describe(&names)}, nil
}

// nowhere reports whether the answer to a look-up means that packets go nowhere: there is a blackhole, unreachable or
// prohibit route, which the kernel does not show, or none.
func nowhere(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENETUNREACH)
}
