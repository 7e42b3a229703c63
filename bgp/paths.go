package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func (f Family) api() *api.Family {
	afi := api.Family_AFI_IP
	if f == IPv6 {
		afi = api.Family_AFI_IP6
	}
	return &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}
}

// familyOf returns 0 for what is not unicast of either family.
func familyOf(f *api.Family) Family {
	switch {
	case f.GetSafi() != api.Family_SAFI_UNICAST:
		return 0
	case f.GetAfi() == api.Family_AFI_IP:
		return IPv4
	case f.GetAfi() == api.Family_AFI_IP6:
		return IPv6
	}
	return 0
}

func (l LargeCommunity) compare(o LargeCommunity) int {
	return cmp.Or(cmp.Compare(l.Global, o.Global), cmp.Compare(l.Local1, o.Local1), cmp.Compare(l.Local2, o.Local2))
}

func (a Announcement) equal(b Announcement) bool {
	return a.Prefix == b.Prefix && a.NextHop == b.NextHop &&
		slices.Equal(a.Communities, b.Communities) && slices.Equal(a.LargeCommunities, b.LargeCommunities)
}

// pack wraps one of the fixed message types of GoBGP's API; that cannot fail.
func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(fmt.Sprintf("pack %T: %v", m, err))
	}
	return a
}

func nlri(p netip.Prefix) *anypb.Any {
	return pack(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
}

// path makes the local route the speaker originates. An unspecified next hop means our address on each session.
func (a Announcement) path() *api.Path {
	fam := FamilyOf(a.Prefix.Addr())
	n := nlri(a.Prefix)
	attrs := []*anypb.Any{pack(&api.OriginAttribute{Origin: 0})} // IGP
	nh := a.NextHop
	if fam == IPv4 {
		if !nh.IsValid() {
			nh = netip.IPv4Unspecified()
		}
		attrs = append(attrs, pack(&api.NextHopAttribute{NextHop: nh.String()}))
	} else {
		if !nh.IsValid() {
			nh = netip.IPv6Unspecified()
		}
		attrs = append(attrs, pack(&api.MpReachNLRIAttribute{
			Family: fam.api(), NextHops: []string{nh.WithZone("").String()}, Nlris: []*anypb.Any{n},
		}))
	}
	if len(a.Communities) > 0 {
		attrs = append(attrs, pack(&api.CommunitiesAttribute{Communities: a.Communities}))
	}
	if len(a.LargeCommunities) > 0 {
		m := &api.LargeCommunitiesAttribute{}
		for _, l := range a.LargeCommunities {
			m.Communities = append(m.Communities, &api.LargeCommunity{GlobalAdmin: l.Global, LocalData1: l.Local1, LocalData2: l.Local2})
		}
		attrs = append(attrs, pack(m))
	}
	return &api.Path{Family: fam.api(), Nlri: n, Pattrs: attrs}
}

// withdrawal names a local route to delete.
func withdrawal(p netip.Prefix) *api.Path {
	return &api.Path{Family: FamilyOf(p.Addr()).api(), Nlri: nlri(p), IsWithdraw: true}
}

// isLocal reports whether the speaker itself originates the path: no neighbor's address then, which GoBGP prints as
// "<nil>".
func isLocal(p *api.Path) bool {
	_, err := netip.ParseAddr(p.GetNeighborIp())
	return err != nil
}

// prefixOf reads the prefix of a unicast path.
func prefixOf(p *api.Path) (netip.Prefix, bool) {
	var n api.IPAddressPrefix
	if familyOf(p.GetFamily()) == 0 || p.GetNlri() == nil || p.Nlri.UnmarshalTo(&n) != nil {
		return netip.Prefix{}, false
	}
	addr, err := netip.ParseAddr(n.Prefix)
	if err != nil {
		return netip.Prefix{}, false
	}
	pfx, err := addr.Prefix(int(n.PrefixLen))
	return pfx, err == nil
}

// nextHopOf reads the next hop; invalid when there is none.
func nextHopOf(p *api.Path) netip.Addr {
	for _, a := range p.GetPattrs() {
		var s string
		switch {
		case a.MessageIs((*api.NextHopAttribute)(nil)):
			var m api.NextHopAttribute
			if a.UnmarshalTo(&m) == nil {
				s = m.NextHop
			}
		case a.MessageIs((*api.MpReachNLRIAttribute)(nil)):
			var m api.MpReachNLRIAttribute
			if a.UnmarshalTo(&m) == nil && len(m.NextHops) > 0 {
				s = m.NextHops[0]
			}
		default:
			continue
		}
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Addr{}
		}
		return addr.Unmap()
	}
	return netip.Addr{}
}

// linkLocalOf reads the link-local next hop that stands beside the global one (RFC 2545 section 3); invalid when there is none.
func linkLocalOf(p *api.Path) netip.Addr {
	for _, a := range p.GetPattrs() {
		var m api.MpReachNLRIAttribute
		if !a.MessageIs(&m) || a.UnmarshalTo(&m) != nil || len(m.NextHops) < 2 {
			continue
		}
		if addr, err := netip.ParseAddr(m.NextHops[1]); err == nil && addr.Is6() && addr.IsLinkLocalUnicast() {
			return addr
		}
	}
	return netip.Addr{}
}

// announcementOf reads a local path back into what it was made from.
func announcementOf(p *api.Path) (Announcement, bool) {
	pfx, ok := prefixOf(p)
	if !ok {
		return Announcement{}, false
	}
	a := Announcement{Prefix: pfx, NextHop: nextHopOf(p)}
	if a.NextHop.IsValid() && a.NextHop.IsUnspecified() {
		a.NextHop = netip.Addr{}
	}
	for _, x := range p.GetPattrs() {
		var c api.CommunitiesAttribute
		var l api.LargeCommunitiesAttribute
		switch {
		case x.MessageIs(&c) && x.UnmarshalTo(&c) == nil:
			a.Communities = slices.Sorted(slices.Values(c.Communities))
		case x.MessageIs(&l) && x.UnmarshalTo(&l) == nil:
			for _, v := range l.Communities {
				a.LargeCommunities = append(a.LargeCommunities, LargeCommunity{v.GetGlobalAdmin(), v.GetLocalData1(), v.GetLocalData2()})
			}
			slices.SortFunc(a.LargeCommunities, LargeCommunity.compare)
		}
	}
	return a, true
}

// diffAnnouncements returns what to add or replace and what to delete, to get from have to want. Both are sorted.
func diffAnnouncements(have map[netip.Prefix]Announcement, want []Announcement) (add []Announcement, del []netip.Prefix) {
	wanted := make(map[netip.Prefix]bool, len(want))
	for _, w := range want {
		wanted[w.Prefix] = true
		if h, ok := have[w.Prefix]; !ok || !h.equal(w) {
			add = append(add, w)
		}
	}
	for p := range have {
		if !wanted[p] {
			del = append(del, p)
		}
	}
	slices.SortFunc(del, netip.Prefix.Compare)
	return add, del
}
