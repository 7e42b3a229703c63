package agent

import (
	"net/netip"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// Learner turns what the fabric announces into desired routes of the host.
type Learner struct {
	Table         RouteTable
	Metric        uint32
	HostAddresses []netip.Addr // preferred source by family, where there is one: replies find their way back to it
}

// Events are the callbacks for the speaker client.
func (l Learner) Events() bgp.Events {
	return bgp.Events{
		Routes: func(upserts []bgp.LearnedRoute, withdrawn []netip.Prefix) {
			rs := make([]routes.Route, len(upserts))
			for i, u := range upserts {
				rs[i] = l.route(u)
			}
			l.Table.Update(routes.Fabric, rs, withdrawn)
		},
		Synced: func() { l.Table.Synced(routes.Fabric) },
	}
}

func (l Learner) route(learned bgp.LearnedRoute) routes.Route {
	r := routes.Route{Prefix: learned.Prefix, Kind: routes.Unicast, Metric: l.Metric}
	for _, nh := range learned.NextHops {
		// A link-local next hop carries its interface as zone, where it must be tried without a connected subnet.
		r.NextHops = append(r.NextHops, routes.NextHop{Addr: nh.WithZone(""), Link: nh.Zone(), Onlink: nh.Zone() != ""})
	}
	for _, src := range l.HostAddresses {
		if src.Is4() == learned.Prefix.Addr().Is4() {
			r.Source = src
		}
	}
	return r
}
