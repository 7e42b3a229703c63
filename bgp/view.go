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
}

func newView(log *slog.Logger) *view {
	return &view{
		log: log, legs: DefaultMultipath, zones: map[netip.Addr]string{}, current: map[netip.Prefix][]netip.Addr{},
		delivered: map[netip.Prefix][]netip.Addr{}, dirty: map[netip.Prefix]struct{}{},
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
	v.synced = false
}

// apply takes the paths of one event. With multipath on and no batching, an event holds the full ECMP set of each prefix
// in it; a withdrawn path means that nothing is left.
func (v *view) apply(paths []*api.Path) {
	touched := make(map[netip.Prefix][]netip.Addr, 1)
	for _, p := range paths {
		pfx, ok := prefixOf(p)
		if !ok {
			continue
		}
		if _, ok := touched[pfx]; !ok {
			touched[pfx] = nil
		}
		if p.GetIsWithdraw() || isLocal(p) {
			continue
		}
		if hop, ok := v.hop(pfx, p); ok {
			touched[pfx] = append(touched[pfx], hop)
		}
	}
	for pfx, hops := range touched {
		slices.SortFunc(hops, netip.Addr.Compare)
		hops = slices.Compact(hops)
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

// hop reads the next hop of a learned path, with its link where it is link-local.
func (v *view) hop(pfx netip.Prefix, p *api.Path) (netip.Addr, bool) {
	hop := nextHopOf(p)
	switch {
	case !hop.IsValid() || hop.IsUnspecified():
		return hop, false
	case pfx.Addr().Is6() && hop.Is4():
		// Sent as ::ffff:a.b.c.d by a router without an IPv6 address on the link: no kernel forwards there.
		v.log.Debug("IPv6 route with an IPv4 next hop left out", "prefix", pfx, "next_hop", hop, "peer", p.GetNeighborIp())
		return hop, false
	case hop.Is6() && hop.IsLinkLocalUnicast():
		zone := v.zones[hop]
		if zone == "" {
			v.log.Debug("link-local next hop on an unknown link left out", "prefix", pfx, "next_hop", hop)
			return hop, false
		}
		return hop.WithZone(zone), true
	}
	return hop, true
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
