package bgp

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	api "github.com/osrg/gobgp/v3/api"
)

// SessionEffect is what a change of configuration does to a session.
type SessionEffect string

// The effects. A session that is updated stays up: timers count from its next start, limits and policies at once.
const (
	SessionAdded   SessionEffect = "added"
	SessionRemoved SessionEffect = "removed"
	SessionReset   SessionEffect = "reset"
	SessionUpdated SessionEffect = "updated, not reset"
)

// SessionChange is what happens to the session with one peer.
type SessionChange struct {
	Peer   netip.Addr
	Effect SessionEffect
}

// PlanSessions tells what Configure(after) does to the sessions that before has, by peer in the order of the configurations.
// Peers that nothing happens to are left out.
func PlanSessions(before, after Config) []SessionChange {
	restart := !sameGlobal(globalOf(before), globalOf(after))
	was := make(map[netip.Addr]Peer, len(before.Peers))
	for _, p := range before.Peers {
		was[p.Address] = p
	}
	var out []SessionChange
	for _, p := range after.Peers {
		old, ok := was[p.Address]
		delete(was, p.Address)
		o, n := neighborOf(old, before, false), neighborOf(p, after, false)
		switch {
		case !ok:
			out = append(out, SessionChange{p.Address, SessionAdded})
		case restart || !proto.Equal(lasting(o), lasting(n)):
			out = append(out, SessionChange{p.Address, SessionReset})
		case !proto.Equal(o, n) || old.NextHop6 != p.NextHop6 || old.Communities != p.Communities:
			out = append(out, SessionChange{p.Address, SessionUpdated})
		}
	}
	for _, p := range before.Peers {
		if _, gone := was[p.Address]; gone {
			out = append(out, SessionChange{p.Address, SessionRemoved})
		}
	}
	return out
}

// lasting is the part of a peer that GoBGP cannot change while its session is up.
func lasting(n *api.Peer) *api.Peer {
	n = proto.Clone(n).(*api.Peer)
	n.Timers, n.EbgpMultihop, n.TtlSecurity = nil, nil, nil
	for _, a := range n.AfiSafis {
		a.PrefixLimits = nil
	}
	return n
}
