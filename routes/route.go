// Package routes holds the routes this host wants, by owner, and keeps the kernel's table equal to them. It knows no
// netlink: the kernel is behind the FIB interface, which routes/kernel implements.
package routes

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Kind is what a route does with a packet.
type Kind uint8

// The kinds of routes there are here.
const (
	Unicast   Kind = iota // forward to a next hop, or onto a link
	Blackhole             // discard: unassigned addresses of a block must not loop between host and ToR
)

func (k Kind) String() string {
	switch k {
	case Unicast:
		return "unicast"
	case Blackhole:
		return "blackhole"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// NextHop is one leg of a route.
type NextHop struct {
	Addr   netip.Addr // the zero Addr: the destination is directly on the link
	Link   string     // interface name; "" lets the kernel resolve Addr
	Onlink bool       // Addr is on the link although no connected network says so
}

func (n NextHop) String() string {
	var parts []string
	if n.Addr.IsValid() {
		parts = append(parts, "via", n.Addr.String())
	}
	if n.Link != "" {
		parts = append(parts, "dev", n.Link)
	}
	if n.Onlink {
		parts = append(parts, "onlink")
	}
	return strings.Join(parts, " ")
}

func (n NextHop) compare(o NextHop) int {
	return cmp.Or(n.Addr.Compare(o.Addr), cmp.Compare(n.Link, o.Link))
}

// Route is one route of the main table.
type Route struct {
	Prefix   netip.Prefix
	Kind     Kind
	NextHops []NextHop  // sorted; more than one is ECMP
	Source   netip.Addr // preferred source of the host's own packets; the zero Addr leaves it to the kernel
	Metric   uint32     // lower wins; IPv6 knows no 0, it means DefaultMetric6
}

// DefaultMetric6 is what the kernel makes of metric 0 on an IPv6 route.
const DefaultMetric6 = 1024

// Key identifies a route in the kernel.
type Key struct {
	Prefix netip.Prefix
	Metric uint32
}

// Key returns the identity of the route.
func (r Route) Key() Key { return Key{r.Prefix, r.Metric} }

// String prints the route as `ip route` does.
func (r Route) String() string {
	var b strings.Builder
	if r.Kind != Unicast {
		b.WriteString(r.Kind.String() + " ")
	}
	b.WriteString(r.Prefix.String())
	if len(r.NextHops) == 1 {
		b.WriteString(" " + r.NextHops[0].String())
	}
	if r.Source.IsValid() {
		b.WriteString(" src " + r.Source.String())
	}
	if r.Metric != 0 && (r.Prefix.Addr().Is4() || r.Metric != DefaultMetric6) {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if len(r.NextHops) > 1 {
		for _, n := range r.NextHops {
			b.WriteString(" nexthop " + n.String())
		}
	}
	return b.String()
}

// Canonical returns the route in the one form that routes are compared in: prefix masked, IPv6 metric 0 replaced,
// next hops sorted without duplicates, zones turned into links.
func (r Route) Canonical() Route {
	r.Prefix = r.Prefix.Masked()
	if r.Metric == 0 && r.Prefix.Addr().Is6() {
		r.Metric = DefaultMetric6
	}
	if len(r.NextHops) == 0 {
		r.NextHops = nil
		return r
	}
	if canonical(r.NextHops) {
		return r
	}
	hops := make([]NextHop, len(r.NextHops))
	for i, n := range r.NextHops {
		n.Addr = n.Addr.Unmap()
		if zone := n.Addr.Zone(); zone != "" {
			n.Addr = n.Addr.WithZone("")
			n.Link = cmp.Or(n.Link, zone)
		}
		hops[i] = n
	}
	slices.SortFunc(hops, NextHop.compare)
	r.NextHops = slices.CompactFunc(hops, func(a, b NextHop) bool { return a.compare(b) == 0 })
	return r
}

// canonical reports whether next hops are in canonical form already: then many routes can share one slice.
func canonical(hops []NextHop) bool {
	for i, n := range hops {
		if n.Addr.Is4In6() || n.Addr.Zone() != "" || i > 0 && hops[i-1].compare(n) >= 0 {
			return false
		}
	}
	return true
}

// validate refuses what no kernel could be asked for.
func (r Route) validate() error {
	switch {
	case !r.Prefix.IsValid():
		return fmt.Errorf("route %v: invalid prefix", r.Prefix)
	case r.Kind == Blackhole && len(r.NextHops) > 0:
		return fmt.Errorf("route %v: a blackhole has no next hops", r.Prefix)
	case r.Kind == Unicast && len(r.NextHops) == 0:
		return fmt.Errorf("route %v: no next hop", r.Prefix)
	case r.Kind > Blackhole:
		return fmt.Errorf("route %v: unknown %v", r.Prefix, r.Kind)
	case r.Source.IsValid() && r.Source.Is4() != r.Prefix.Addr().Is4():
		return fmt.Errorf("route %v: preferred source %v is of the other family", r.Prefix, r.Source)
	}
	for _, n := range r.NextHops {
		if err := n.validate(r.Prefix, len(r.NextHops)); err != nil {
			return fmt.Errorf("route %v: %w", r.Prefix, err)
		}
	}
	return nil
}

func (n NextHop) validate(p netip.Prefix, legs int) error {
	switch {
	case !n.Addr.IsValid() && n.Link == "":
		return fmt.Errorf("next hop has neither address nor link")
	case !n.Addr.IsValid() && legs > 1:
		return fmt.Errorf("next hop directly on link %s cannot be one of several", n.Link)
	case n.Addr.Is4() && p.Addr().Is6():
		return fmt.Errorf("IPv6 destination cannot use IPv4 next hop %v", n.Addr)
	case n.Addr.IsLinkLocalUnicast() && n.Addr.Is6() && n.Link == "":
		return fmt.Errorf("link-local next hop %v needs its link", n.Addr)
	case n.Onlink && n.Link == "":
		return fmt.Errorf("onlink next hop %v needs its link", n.Addr)
	}
	return nil
}

// satisfiedBy reports whether the kernel's route does what r asks for. Both are canonical. A next hop without a link
// accepts whichever link the kernel resolved.
func (r Route) satisfiedBy(have Route) bool {
	return r.Prefix == have.Prefix && r.Metric == have.Metric && r.Kind == have.Kind && r.Source == have.Source &&
		slices.EqualFunc(r.NextHops, have.NextHops, func(want, have NextHop) bool {
			return want.Addr == have.Addr && want.Onlink == have.Onlink && (want.Link == "" || want.Link == have.Link)
		})
}
