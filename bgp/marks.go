package bgp

import (
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
)

// maxMarks bounds what is kept of a leg, and of a route: whoever announces it could fill a message with communities.
const maxMarks = 16

// marksOf reads the large communities of one administrator that a path carries; 0 stands for none.
func marksOf(p *api.Path, admin uint32) []LargeCommunity {
	if admin == 0 {
		return nil
	}
	var marks []LargeCommunity
	for _, a := range p.GetPattrs() {
		if !a.MessageIs((*api.LargeCommunitiesAttribute)(nil)) {
			continue
		}
		var m api.LargeCommunitiesAttribute
		if a.UnmarshalTo(&m) != nil {
			continue
		}
		for _, c := range m.Communities {
			if c.GetGlobalAdmin() == admin && len(marks) < maxMarks {
				marks = append(marks, LargeCommunity{c.GetGlobalAdmin(), c.GetLocalData1(), c.GetLocalData2()})
			}
		}
	}
	return marks
}

// marks are the large communities of learned routes, for those few that have some of the consumer's.
type marks struct {
	admin              uint32
	current, delivered map[netip.Prefix][]LargeCommunity
}

func newMarks(admin uint32) marks {
	return marks{admin: admin, current: map[netip.Prefix][]LargeCommunity{}, delivered: map[netip.Prefix][]LargeCommunity{}}
}

// take makes what the legs of a prefix carry together the current state of it.
func (m *marks) take(pfx netip.Prefix, now []LargeCommunity) {
	if len(now) == 0 {
		delete(m.current, pfx)
		return
	}
	slices.SortFunc(now, LargeCommunity.compare)
	now = slices.Compact(now)
	m.current[pfx] = slices.Clip(now[:min(len(now), maxMarks)])
}

// changed tells whether the consumer was told something else of a prefix.
func (m *marks) changed(pfx netip.Prefix) bool {
	return !slices.Equal(m.current[pfx], m.delivered[pfx])
}

// deliver counts what is current of a prefix as told, and returns it.
func (m *marks) deliver(pfx netip.Prefix) []LargeCommunity {
	now := m.current[pfx]
	if len(now) == 0 {
		delete(m.delivered, pfx)
	} else {
		m.delivered[pfx] = now
	}
	return now
}
