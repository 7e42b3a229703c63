package telemetry

import (
	"fmt"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
	"github.com/hostfabric/hostfabric/routes"
)

var (
	healthyFamily    = gauge("health_gate_open", "1 while the host can forward for its containers: sysctls, discard routes, routes to containers.")
	announcingFamily = gauge("announcing", "1 while the blocks are announced; 0 while the host is unwell or drained, which hostfabric status explains.")
	coverFamily      = gauge("cover_prefixes", "The fewest prefixes that have all of this host's blocks: what is to be announced.", "family")
	announcedFamily  = gauge("announced_prefixes", "Prefixes that the speaker announces to the fabric.", "family")
	budgetFamily     = gauge("budget_prefixes", "Prefixes that this host may announce.", "family")

	speakerFamily = gauge("speaker_connected", "1 while the speaker process is connected.")
	crashesFamily = counter("speaker_crashes_total", "Speaker processes that ended with a panic or a fatal error since the host booted.")

	peerFamily         = gauge("peer_established", "1 while the BGP session is established.", "peer")
	peerInfoFamily     = gauge("peer_info", "1, with the name and the AS number of the peer.", "peer", "name", "asn")
	flapsFamily        = counter("peer_flaps_total", "Times that the BGP session was lost, since the speaker knows the peer.", "peer")
	peerPrefixesFamily = gauge("peer_prefixes", "Prefixes on the session: received, accepted by the import policy, or advertised.", "peer", "family", "direction")
	peerUpdatesFamily  = counter("peer_updates_total", "BGP UPDATE messages on the session by direction.", "peer", "direction")
	refusedFamily      = gauge("bgp_refused_prefixes", "Prefixes that the peer announces and that are kept out.", "peer", "family", "reason")
	ownSpaceFamily     = gauge("bgp_own_space_alarm", "1 while the peer announces addresses of this host: somebody else uses them.", "peer")

	bfdConnectedFamily = gauge("bfd_connected", "1 while the BFD process is connected, or no BFD is wanted.")
	bfdUpFamily        = gauge("bfd_up", "1 while the BFD session is up.", "peer")
	bfdFlapsFamily     = counter("bfd_flaps_total", "Times that the BFD session went down, since the BFD process knows it.", "peer")
	deadFamily         = gauge("dead_routers", "Routers whose next hops are out of use, though their BGP session may not have noticed yet.")
	failoversFamily    = counter("failovers_total", "Times that a router was found dead and its next hops taken out of use.")

	routesFamily       = gauge("routes", "Routes that are wanted by state: installed, pending, failed (the kernel does not take them) or refused (the host has a route of its own there).", "state")
	wantedFamily       = gauge("routes_wanted", "Routes that are wanted: discard routes of blocks, host routes of endpoints, and what the fabric announces.", "owner")
	foreignFamily      = gauge("routes_foreign", "Routes of everybody else in the same table.")
	fibChangesFamily   = counter("fib_changes_total", "Routes changed in the kernel.")
	fibErrorsFamily    = counter("fib_errors_total", "Changes of routes that the kernel refused; each is tried again.")
	fibRepairsFamily   = counter("fib_repairs_total", "Routes that the kernel had otherwise than the agent had left them, and that were put right.")
	fibBatchFamily     = histogram("fib_batch_duration_seconds", "How long the kernel took for a batch of changes.")
	fibResyncFamily    = gauge("fib_resync_seconds", "That the last listing of the agent's routes in the kernel took; 0 before the first.")
	fibResyncsFamily   = counter("fib_resyncs_total", "Listings of the agent's routes in the kernel.")
	fibDurationSeconds = seconds(routes.DurationBounds[:])
)

// announcements gives both families of everything, whether the host has blocks of it or not.
func (e emitter) announcements(s *agent.Status) {
	e.is(healthyFamily, s.Healthy)
	e.is(announcingFamily, s.Announcing)
	cover, announced := map[string]int{}, map[string]int{}
	for _, p := range s.Cover {
		cover[familyOf(p)]++
	}
	for _, p := range s.Announced {
		announced[familyOf(p)]++
	}
	for f, budget := range map[string]int{"ipv4": s.BudgetIPv4, "ipv6": s.BudgetIPv6} {
		e.set(coverFamily, float64(cover[f]), f)
		e.set(announcedFamily, float64(announced[f]), f)
		e.set(budgetFamily, float64(budget), f)
	}
	e.is(speakerFamily, s.Speaker.Connected)
	e.set(crashesFamily, float64(s.Speaker.Crashes))
}

func (e emitter) peers(all []bgp.PeerStatus) {
	for _, p := range all {
		peer := p.Address.String()
		e.is(peerFamily, p.State == bgp.StateEstablished, peer)
		e.set(peerInfoFamily, 1, peer, p.Description, fmt.Sprint(p.ASN))
		e.set(flapsFamily, float64(p.Flaps), peer)
		e.set(peerUpdatesFamily, float64(p.Received.Update), peer, "received")
		e.set(peerUpdatesFamily, float64(p.Sent.Update), peer, "sent")
		own := uint64(0)
		for _, f := range p.Families {
			family := f.Family.String()
			e.set(peerPrefixesFamily, float64(f.Received), peer, family, "received")
			e.set(peerPrefixesFamily, float64(f.Accepted), peer, family, "accepted")
			e.set(peerPrefixesFamily, float64(f.Advertised), peer, family, "advertised")
			for reason, n := range f.RefusedBy() {
				e.set(refusedFamily, float64(n), peer, family, string(reason))
			}
			own += f.Refused.OwnSpace
		}
		e.is(ownSpaceFamily, own > 0, peer)
	}
}

func (e emitter) paths(s *agent.Status) {
	e.is(bfdConnectedFamily, s.BFD.Connected || !s.BFD.Wanted)
	for _, b := range s.BFD.Sessions {
		e.is(bfdUpFamily, b.State == bfd.Up, b.Peer.String())
		e.set(bfdFlapsFamily, float64(b.Downs), b.Peer.String())
	}
	e.set(deadFamily, float64(len(s.Dead)))
}

func (e emitter) routes(s routes.Stats) {
	for _, state := range []routes.State{routes.Installed, routes.Pending, routes.Failed, routes.Refused} {
		e.set(routesFamily, float64(s.States[state]), state.String())
	}
	for _, owner := range []routes.Owner{routes.Blocks, routes.Endpoints, routes.Fabric} {
		e.set(wantedFamily, float64(s.Wanted[owner]), string(owner))
	}
	e.set(foreignFamily, float64(s.Foreign))
	e.set(fibChangesFamily, float64(s.Changes))
	e.set(fibErrorsFamily, float64(s.Errors))
	e.set(fibRepairsFamily, float64(s.Repairs))
	e.observed(fibBatchFamily, fibDurationSeconds, s.Batches.Counts[:], s.Batches.Sum.Seconds())
	e.set(fibResyncFamily, s.Listing.Seconds())
	e.set(fibResyncsFamily, float64(s.Resyncs))
}
