package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// A container may have several interfaces, of ours or of other plugins. The one that came first keeps the default
// route. A later one gets a weaker default route, for when the first is gone, and answers by itself: packets from its
// addresses follow a table of its own, so that the host's reverse-path check sees them come in where they belong.
const (
	// secondTable and the interface's index in the container make the number of its table: "hf" and 0.
	secondTable = 0x68660000
	maxIndex    = 0xffff
	// secondMetric and the index make the weaker default route's metric; the kernel's own for IPv6 is 1024.
	secondMetric = 1024
	// secondPriority puts our rules before those the kernel would add without a wish, after most other people's.
	secondPriority = 30000
)

// secondWayOut is the way out of an interface whose families' default routes (via these gateways) are taken.
func secondWayOut(inside *rtnl.Conn, ns *os.File, e *Endpoint, index int, taken []netip.Addr) error {
	if index > maxIndex {
		return fmt.Errorf("a later interface's index must be at most %d, this is %d", maxIndex, index)
	}
	var b rtnl.Batch
	var what []string
	for _, gateway := range taken {
		for _, r := range []struct{ table, metric int }{{unix.RT_TABLE_MAIN, secondMetric + index}, {secondTable + index, 0}} {
			b.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
			b.Route(rtnl.RouteHeader{
				Family: family(gateway), Table: r.table, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_UNIVERSE,
				Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK,
			})
			b.Uint32(unix.RTA_TABLE, uint32(r.table))
			b.Uint32(unix.RTA_PRIORITY, uint32(r.metric))
			b.IP(unix.RTA_GATEWAY, gateway)
			b.Uint32(unix.RTA_OIF, uint32(index))
			what = append(what, fmt.Sprintf("add second default route via %v in table %#x", gateway, r.table))
		}
	}
	if err := failures(inside.Do(&b, nil), what); err != nil {
		return err
	}
	_, err := withHandle(ns, func(h *netlink.Handle) ([]error, error) {
		return nil, errors.Join(dropStaleRules(h), addRules(h, e.Addrs, index, taken))
	})
	return err
}

func addRules(h *netlink.Handle, addrs []netip.Addr, index int, taken []netip.Addr) error {
	for _, a := range addrs {
		if !slices.ContainsFunc(taken, func(gateway netip.Addr) bool { return gateway.Is4() == a.Is4() }) {
			continue
		}
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Priority = int(family(a)), secondTable+index, secondPriority
		rule.Src = &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		if err := h.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule for packets from %v: %w", a, err)
		}
	}
	return nil
}

// dropStaleRules removes the rules of interfaces that have left the container. They do nothing, their tables went
// empty with the link, but a container that goes through many would gather them.
func dropStaleRules(h *netlink.Handle) error {
	rules, err := dump(func() ([]netlink.Rule, error) { return h.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		index := r.Table - secondTable
		if r.Priority != secondPriority || index <= 0 || index > maxIndex {
			continue
		}
		_, err := h.LinkByIndex(index)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			err = h.RuleDel(&r)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove stale rule %v: %w", r, err)
		}
	}
	return nil
}

// compareSecond looks at the table and rules of an interface whose default route via the gateway is the weaker one.
func (e *Endpoint) compareSecond(h *netlink.Handle, in link, gateway netip.Addr) ([]error, error) {
	table := secondTable + in.index
	routes, err := dump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(int(family(gateway)), &netlink.Route{LinkIndex: in.index, Table: table}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	rules, err := dump(func() ([]netlink.Rule, error) { return h.RuleList(int(family(gateway))) })
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var diff []error
	if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return isDefault(r, gateway) }) {
		diff = append(diff, fmt.Errorf("no default route via %v in table %#x of %s", gateway, table, in.name))
	}
	for _, a := range e.Addrs {
		from := netip.PrefixFrom(a, a.BitLen())
		if a.Is4() == gateway.Is4() && !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Table == table && prefix(r.Src) == from }) {
			diff = append(diff, fmt.Errorf("no rule from %v to table %#x of %s", from, table, in.name))
		}
	}
	return diff, nil
}
