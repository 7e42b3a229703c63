package bgp

import (
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
)

// ordinaryCommunity matches the RFC 1997 communities that are not well-known: their upper half is less than 65535.
const ordinaryCommunity = `^([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-4]):[0-9]+$`

// anyCommunity matches every one.
const anyCommunity = `^.+$`

func (c Communities) sendsStandard() bool { return c != NoCommunities && c != LargeCommunities }

func (c Communities) sendsLarge() bool { return c != NoCommunities && c != StandardCommunities }

// stripCommunities takes the communities off that a peer does not get. The statements decide nothing: the next ones do.
func (b *policyBuilder) stripCommunities(peers []Peer) []*api.Statement {
	var out []*api.Statement
	for _, kind := range []struct {
		name  string
		sends func(Communities) bool
		take  *api.Actions
	}{
		{"standard", Communities.sendsStandard, &api.Actions{Community: remove(ordinaryCommunity)}},
		{"large", Communities.sendsLarge, &api.Actions{LargeCommunity: remove(anyCommunity)}},
	} {
		var addrs []netip.Addr
		for _, p := range peers {
			if !kind.sends(p.Communities) {
				addrs = append(addrs, p.Address)
			}
		}
		if len(addrs) > 0 {
			name := "without-" + kind.name
			out = append(out, b.statement("export-"+name, &api.Conditions{NeighborSet: b.neighbors(name, addrs)}, kind.take))
		}
	}
	return out
}

func remove(pattern string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_REMOVE, Communities: []string{pattern}}
}

// refuseInternal lets nothing in from an external peer that turns out to be of our own AS: see guard.
func (b *policyBuilder) refuseInternal(peers []Peer) []*api.Statement {
	var addrs []netip.Addr
	for _, p := range peers {
		if p.ASN == 0 {
			addrs = append(addrs, p.Address)
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	c := &api.Conditions{NeighborSet: b.neighbors("external", addrs), RouteType: api.Conditions_ROUTE_TYPE_INTERNAL}
	return []*api.Statement{b.statement("import-internal", c, reject())}
}
