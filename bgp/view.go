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
	log     *slog.Logger
	legs    int // limit of next hops a route
	zones   map[netip.Addr]string
	subnets map[netip.Addr][]netip.Prefix // of the peers' links, by peer without zone
	// elsewhere has the legs of prefixes with one that is not the peer itself: they are judged again when subnets change.
	elsewhere map[netip.Prefix][]leg
	current   map[netip.Prefix][]netip.Addr // next hops in sorted order, at least one
	delivered map[netip.Prefix][]netip.Addr
	marks     marks
	dirty     map[netip.Prefix]struct{}
	hops      []netip.Addr // of the prefix taken last
	synced    bool
	tallies   *tallies
	named     namedHops
	warned    map[netip.Addr]bool // peers whose routes without a usable next hop were logged
}

// newView returns an empty view. Of large communities it keeps those of one administrator; 0: of none.
func newView(log *slog.Logger, admin uint32) *view {
	return &view{
		log: log, legs: DefaultMultipath, zones: map[netip.Addr]string{}, current: map[netip.Prefix][]netip.Addr{},
		delivered: map[netip.Prefix][]netip.Addr{}, dirty: map[netip.Prefix]struct{}{}, elsewhere: map[netip.Prefix][]leg{},
		marks: newMarks(admin), tallies: newTallies(), warned: map[netip.Addr]bool{},
	}
}

// configure takes the number of legs, the subnets of the peers' links, and the links of link-local peers: events name next
// hops without their zone. Of peers with one link-local address on two links only the first has a session, see split.
func (v *view) configure(c Config) {
	v.legs = c.Multipath
	if v.legs <= 0 {
		v.legs = DefaultMultipath
	}
	v.zones = map[netip.Addr]string{}
	for _, p := range c.found() {
		if z := p.Address.Zone(); z != "" {
			v.zones[p.Address.WithZone("")] = z
		}
	}
	before := v.subnets
	v.subnets = map[netip.Addr][]netip.Prefix{}
	for _, p := range c.found() {
		if len(p.Subnets) > 0 {
			v.subnets[p.Address.WithZone("")] = slices.Clone(p.Subnets)
		}
	}
	if maps.EqualFunc(before, v.subnets, slices.Equal[[]netip.Prefix]) {
		return
	}
	for pfx, legs := range v.elsewhere {
		v.set(map[netip.Prefix]found{pfx: v.judge(pfx, legs)})
	}
}

// restart begins the account of a new connection.
func (v *view) restart() {
	clear(v.current)
	clear(v.marks.current)
	clear(v.dirty)
	clear(v.warned)
	clear(v.elsewhere)
	v.tallies.reset()
	v.synced = false
}

// apply takes the paths of one event. With multipath on and no batching, an event holds the full ECMP set of each prefix
// in it; a withdrawn path means that nothing is left.
func (v *view) apply(paths []*api.Path) {
	if len(paths) == 1 {
		if pfx, ok := prefixOf(paths[0]); ok { // nearly all events of a fabric with one way to each prefix
			var legs []leg
			if !paths[0].GetIsWithdraw() {
				legs = []leg{legOf(paths[0], v.marks.admin)}
			}
			now := v.look(pfx, legs)
			v.tallies.setOne(pfx, now)
			v.take(pfx, now)
		}
		return
	}
	legs := make(map[netip.Prefix][]leg, 1)
	for _, p := range paths {
		pfx, ok := prefixOf(p)
		if !ok {
			continue
		}
		now := legs[pfx]
		if !p.GetIsWithdraw() {
			now = append(now, legOf(p, v.marks.admin))
		}
		legs[pfx] = now
	}
	touched := make(map[netip.Prefix]found, len(legs))
	for pfx, now := range legs {
		touched[pfx] = v.look(pfx, now)
	}
	v.set(touched)
}

// look judges the paths of a prefix, and remembers those that another link would have judged otherwise.
func (v *view) look(pfx netip.Prefix, legs []leg) found {
	if slices.ContainsFunc(legs, leg.elsewhere) {
		v.elsewhere[pfx] = legs
	} else {
		delete(v.elsewhere, pfx)
	}
	return v.judge(pfx, legs)
}

// set records what is known of the prefixes now.
func (v *view) set(touched map[netip.Prefix]found) {
	v.tallies.set(touched)
	for pfx, now := range touched {
		v.take(pfx, now)
	}
}

// take makes what an event tells of a prefix the current state of it. Prefixes that follow one another with the same next hops
// share them.
func (v *view) take(pfx netip.Prefix, now found) {
	slices.SortFunc(now.hops, netip.Addr.Compare)
	hops := slices.Compact(now.hops)
	if len(hops) > v.legs {
		hops = hops[:v.legs]
	}
	if slices.Equal(hops, v.hops) {
		hops = v.hops
	} else {
		v.hops = hops
	}
	if len(hops) == 0 {
		delete(v.current, pfx)
	} else {
		v.current[pfx] = hops
	}
	v.marks.take(pfx, now.marks)
	v.dirty[pfx] = struct{}{}
}

// leg is a path of an event, as far as it matters here: the zero one is the speaker's own.
type leg struct {
	from, hop netip.Addr
	marks     []LargeCommunity
}

func legOf(p *api.Path, admin uint32) leg {
	if isLocal(p) {
		return leg{}
	}
	from, _ := netip.ParseAddr(p.GetNeighborIp()) // it parses, or the path were local
	l := leg{from: from.WithZone(""), hop: nextHopOf(p), marks: marksOf(p, admin)}
	if l.from.IsLinkLocalUnicast() {
		if second := linkLocalOf(p); second.IsValid() {
			l.hop = second // on the link in any case, which its global address need not be
		}
	}
	return l
}

func (l leg) elsewhere() bool { return l.hop != l.from }

// found is what an event tells of one prefix.
type found struct {
	hops    []netip.Addr
	sources []source
	marks   []LargeCommunity // of all legs that can be forwarded to
}

// judge tells which next hops of a prefix can be forwarded to.
func (v *view) judge(pfx netip.Prefix, legs []leg) (now found) {
	for _, l := range legs {
		if !l.from.IsValid() {
			now.sources = append(now.sources, source{})
			continue
		}
		hop, problem := v.hop(pfx, l)
		if problem == "" {
			now.hops = append(now.hops, hop)
			now.marks = append(now.marks, l.marks...)
			v.named.add(l.from, hop)
		} else {
			v.warn(pfx, hop, l.from, problem)
		}
		now.sources = append(now.sources, source{peer: l.from, problem: problem})
	}
	return now
}

// hop returns the next hop of a learned path, with its link where it is link-local, and says what makes it unusable.
func (v *view) hop(pfx netip.Prefix, l leg) (hop netip.Addr, problem string) {
	hop = l.hop
	if hop.IsValid() && hop.IsUnspecified() && l.from.IsLinkLocalUnicast() {
		// RFC 2545 section 3 wants a global address and beside it the link-local one. A router that has no global address
		// leaves "::" in its place, and the other one is the address of the session.
		hop = l.from
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
			return hop, "a link-local next hop that is no peer's address"
		}
		return hop.WithZone(zone), ""
	}
	return hop, offLink(v.subnets[l.from], hop, l.from)
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
		case have && (!had || !slices.Equal(now, was) || v.marks.changed(pfx)):
			v.delivered[pfx] = now
			upserts = append(upserts, LearnedRoute{Prefix: pfx, NextHops: now, Marks: v.marks.deliver(pfx)})
		case !have && had:
			delete(v.delivered, pfx)
			v.marks.deliver(pfx)
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
