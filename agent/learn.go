package agent

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// Learner turns what the fabric announces into desired routes of the host.
type Learner struct {
	Table RouteTable
	// Marked is told too, with what the routes are marked with; nil: nobody is.
	Marked func(upserts []bgp.LearnedRoute, withdrawn []netip.Prefix)

	mu     sync.Mutex // guards what follows, and keeps learning and a change of it apart
	metric uint32
	host   []netip.Addr // preferred source by family, where there is one: replies find their way back to it
	// Most routes of a fabric have the same next hops as the one before. They share them.
	learned  []netip.Addr
	nextHops []routes.NextHop
}

// SetMetric changes the metric of all fabric routes, of those learned before too: each has its new route in the kernel
// before the old one goes.
func (l *Learner) SetMetric(metric uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.metric = metric
	l.restate()
}

// HostAddresses are the preferred sources as they are now.
func (l *Learner) HostAddresses() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.host
}

// SetHostAddresses changes the preferred source of all fabric routes, of those learned before too.
func (l *Learner) SetHostAddresses(host []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.host = host
	l.restate()
}

// restate has routes learned before follow a change. Caller holds mu.
func (l *Learner) restate() {
	var rs []routes.Route
	for _, s := range l.Table.Status(routes.Fabric) {
		r := l.prefer(s.Route)
		r.Metric = l.metric
		if r.Source != s.Route.Source || r.Metric != s.Route.Metric {
			rs = append(rs, r)
		}
	}
	if len(rs) > 0 {
		l.Table.Update(routes.Fabric, rs, nil)
	}
}

// Events are the callbacks for the speaker client.
func (l *Learner) Events() bgp.Events {
	return bgp.Events{
		Routes: func(upserts []bgp.LearnedRoute, withdrawn []netip.Prefix) {
			l.mu.Lock()
			defer l.mu.Unlock()
			rs := make([]routes.Route, len(upserts))
			for i, u := range upserts {
				rs[i] = l.route(u)
			}
			l.Table.Update(routes.Fabric, rs, withdrawn)
			if l.Marked != nil {
				l.Marked(upserts, withdrawn)
			}
		},
		Synced: func() { l.Table.Synced(routes.Fabric) },
	}
}

// route is what the host wants for a learned route. Caller holds mu.
func (l *Learner) route(learned bgp.LearnedRoute) routes.Route {
	if !slices.Equal(learned.NextHops, l.learned) {
		l.learned, l.nextHops = learned.NextHops, nil
		for _, nh := range learned.NextHops {
			// A link-local next hop carries its interface as zone, where it must be tried without a connected subnet.
			l.nextHops = append(l.nextHops, routes.NextHop{Addr: nh.WithZone(""), Link: nh.Zone(), Onlink: nh.Zone() != ""})
		}
	}
	return l.prefer(routes.Route{Prefix: learned.Prefix, Kind: routes.Unicast, Metric: l.metric, NextHops: l.nextHops})
}

// prefer sets a route's preferred source. Caller holds mu.
func (l *Learner) prefer(r routes.Route) routes.Route {
	r.Source = netip.Addr{}
	for _, src := range l.host {
		if src.Is4() == r.Prefix.Addr().Is4() {
			r.Source = src
		}
	}
	return r
}
