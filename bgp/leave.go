package bgp

import (
	"fmt"
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
)

// leaves says how a peer hears of our routes: with a longer AS path, and with GRACEFUL_SHUTDOWN.
func (c Config) leaves(p Peer) (longer, graceful bool) {
	first := p.Address == c.found()[0].Address
	return !first && c.Leave >= LeaveLonger, c.Leave >= LeaveAll || !first && c.Leave >= LeaveOthers
}

// leaving changes what we originate for the peers that it leaves; the statements after it decide whether it is sent.
func (b *policyBuilder) leaving(c Config) []*api.Statement {
	var longer, graceful []netip.Addr
	for _, p := range c.found() {
		l, g := c.leaves(p)
		if l {
			longer = append(longer, p.Address)
		}
		if g {
			graceful = append(graceful, p.Address)
		}
	}
	var out []*api.Statement
	change := func(name string, peers []netip.Addr, a *api.Actions) {
		if len(peers) > 0 {
			cond := &api.Conditions{NeighborSet: b.neighbors(name, peers), RouteType: api.Conditions_ROUTE_TYPE_LOCAL}
			out = append(out, b.statement("export-"+name, cond, a))
		}
	}
	// The AS number is what the path begins with: the one that the peer knows us by. A path to our own AS has none, and stays so.
	change("longer", longer, &api.Actions{AsPrepend: &api.AsPrependAction{UseLeftMost: true, Repeat: 1}})
	community := fmt.Sprintf("%d:%d", GracefulShutdown>>16, GracefulShutdown&0xffff)
	change("graceful", graceful, &api.Actions{Community: &api.CommunityAction{Type: api.CommunityAction_ADD, Communities: []string{community}}})
	return out
}
