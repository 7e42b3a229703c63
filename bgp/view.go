package bgp

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
)

// view is what the fabric announces, as far as the events of the current speaker tell, and what of it the consumer
// has been told. Changes collect in a set of dirty prefixes until flush.
//
// After a change of speaker, routes only the previous one knew stay with the consumer until synced: the new speaker
// has to hear them again first.
type view struct {
	log       *slog.Logger
	legs      int // limit of next hops a route
	zones     map[netip.Addr]string
	current   map[netip.Prefix][]netip.Addr // next hops in sorted order, at least one
	delivered map[netip.Prefix][]netip.Addr
	dirty     map[netip.Prefix]struct{}
	synced    bool
	tallies   *tallies
	named     namedHops
	warned    map[netip.Addr]bool // peers whose routes without a usable next hop were logged
}

func newView(log *slog.Logger) *view {
	return &view{
		log: log, legs: DefaultMultipath, zones: map[netip.Addr]string{}, current: map[netip.Prefix][]netip.Addr{},
		delivered: map[netip.Prefix][]netip.Addr{}, dirty: map[netip.Prefix]struct{}{},
		tallies: newTallies(), warned: map[netip.Addr]bool{},
	}
}

// configure takes the number of legs, and the links of link-local peers: events name next hops without their zone.
// A link-local address that two links share is ambiguous; such a next hop is left out.
func (v *view) configure(c Config) {
	v.legs = c.Multipath
	if v.legs <= 0 {
		v.legs = DefaultMultipath
	}
	v.zones = map[netip.Addr]string{}
	for _, p := range c.Peers {
		if z := p.Address.Zone(); z != "" {
			plain := p.Address.WithZone("")
			if old, ok := v.zones[plain]; ok && old != z {
				z = ""
			}
			v.zones[plain] = z
		}
	}
}

// restart begins the account of a new connection.
func (v *view) restart() {
	clear(v.current)
	clear(v.dirty)
	clear(v.warned)
	v.tallies.reset()
	v.synced = false
}

// apply takes the paths of one event. With multipath on and no batching, an event holds the full ECMP set of each prefix
// in it; a withdrawn path means that nothing is left.
func (v *view) apply(paths []*api.Path) {
	touched := make(map[netip.Prefix]found, 1)
	for _, p := range paths {
		pfx, ok := prefixOf(p)
		if !ok {
			continue
		}
		now := touched[pfx]
		if !p.GetIsWithdraw() {
			now = v.add(now, pfx, p)
		}
		touched[pfx] = now
	}
	v.tallies.set(touched)
	for pfx, now := range touched {
		slices.SortFunc(now.hops, netip.Addr.Compare)
		hops := slices.Compact(now.hops)
		if len(hops) > v.legs {
			hops = hops[:v.legs]
		}
		if len(hops) == 0 {
			delete(v.current, pfx)
		} else {
			v.current[pfx] = hops
		}
		v.dirty[pfx] = struct{}{}
	}
}

// found is what an event tells of one prefix.
type found struct {
	hops    []netip.Addr
	sources []source
}

func (v *view) add(now found, pfx netip.Prefix, p *api.Path) found {
	if isLocal(p) {
		now.sources = append(now.sources, source{})
		return now
	}
	from, _ := netip.ParseAddr(p.GetNeighborIp()) // it parses, or the path were local
	from = from.WithZone("")
	hop, problem := v.hop(pfx, p, from)
	if problem == "" {
		now.hops = append(now.hops, hop)
		v.named.add(from, hop)
	} else {
		v.warn(pfx, hop, from, problem)
	}
	now.sources = append(now.sources, source{peer: from, unusable: problem != ""})
	return now
}

// hop reads the next hop of a learned path, with its link where it is link-local, and says what makes it unusable.
func (v *view) hop(pfx netip.Prefix, p *api.Path, from netip.Addr) (hop netip.Addr, problem string) {
	hop = nextHopOf(p)
	if second := linkLocalOf(p); second.IsValid() && from.IsLinkLocalUnicast() {
		hop = second // on the link in any case, which its global address need not be
	}
	if hop.IsValid() && hop.IsUnspecified() && from.IsLinkLocalUnicast() {
		// RFC 2545 section 3 wants a global address and beside it the link-local one. A router that has no global address
		// leaves "::" in its place, and the other one is the address of the session.
		hop = from
	}
	switch {
	case !hop.IsValid() || hop.IsUnspecified():
		return hop, "no next hop"
	case pfx.Addr().Is6() && hop.Is4():
		// Sent as ::ffff:a.b.c.d by a router without an IPv6 address on the link: no kernel forwards there.
		return hop, "an IPv4 next hop of an IPv6 route: the router needs an IPv6 address on the link"
	case hop.Is6() && hop.IsLinkLocalUnicast():
		zone := v.zones[hop]
		if zone == "" {
			return hop, "a link-local next hop that is not exactly one peer's address"
		}
		return hop.WithZone(zone), ""
	}
	return hop, ""
}

// warn tells of a route left out, once a peer and connection.
func (v *view) warn(pfx netip.Prefix, hop, from netip.Addr, problem string) {
	if v.warned[from] {
		return
	}
	v.warned[from] = true
	v.log.Warn("route left out for its next hop, more may follow", "peer", from, "prefix", pfx, "next_hop", hop, "problem", problem)
}

// flush returns what changed for the consumer since the last call, and counts it as delivered.
func (v *view) flush() (upserts []LearnedRoute, withdrawn []netip.Prefix) {
	for pfx := range v.dirty {
		now, have := v.current[pfx]
		was, had := v.delivered[pfx]
		switch {
		case have && (!had || !slices.Equal(now, was)):
			v.delivered[pfx] = now
			upserts = append(upserts, LearnedRoute{Prefix: pfx, NextHops: slices.Clone(now)})
		case !have && had:
			delete(v.delivered, pfx)
			withdrawn = append(withdrawn, pfx)
		}
	}
	clear(v.dirty)
	slices.SortFunc(upserts, func(a, b LearnedRoute) int { return a.Prefix.Compare(b.Prefix) })
	slices.SortFunc(withdrawn, netip.Prefix.Compare)
	return upserts, withdrawn
}

// finish marks everything dirty that only a previous speaker announced; the next flush withdraws it.
func (v *view) finish() {
	v.synced = true
	for pfx := range maps.Keys(v.delivered) {
		if _, ok := v.current[pfx]; !ok {
			v.dirty[pfx] = struct{}{}
		}
	}
}
