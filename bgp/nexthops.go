package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	api "github.com/osrg/gobgp/v3/api"
)

// offLink says what is wrong with a next hop that is not on the link to the peer. RFC 4271 section 5.1.3 lets an external
// peer name itself, or another router in the subnet that both share. Without subnets, whatever it names is right.
func offLink(subnets []netip.Prefix, hop, from netip.Addr) string {
	if len(subnets) == 0 || hop == from {
		return ""
	}
	if slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Addr() == hop }) {
		return fmt.Sprintf("the next hop %s is this host's own address", hop)
	}
	if !slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(hop) }) {
		return fmt.Sprintf("the next hop %s is not on the link to the peer", hop)
	}
	return ""
}

// checkedByPolicy reports whether the import policy judges the peer's next hops: a route whose next hop is worthless must
// not beat another router's. GoBGP's policy does not see the link-local next hop beside a global one (RFC 2545), which
// unnumbered sessions live on: theirs are judged afterwards only, see view.
func (p Peer) checkedByPolicy() bool { return len(p.Subnets) > 0 && !p.Address.IsLinkLocalUnicast() }

// hopCheck is a condition on who announces a route with which next hop.
type hopCheck struct {
	peers []netip.Addr
	hops  []string // prefixes; empty: any
}

// hopChecks returns the conditions one of which a route has to meet, and the next hops that none may have: our own
// addresses. Without a peer that is checked there is nothing to meet.
func hopChecks(peers []Peer) (checks []hopCheck, own []string) {
	byHops := map[string]int{}
	for _, p := range peers {
		var hops []string
		if p.checkedByPolicy() {
			hops = allowedHops(p)
			for _, s := range p.Subnets {
				// A peer may have no link yet: then its subnet is itself, and none of ours.
				if s.Addr() != p.Address {
					own = append(own, exact(s.Addr()))
				}
			}
		}
		key := strings.Join(hops, " ")
		i, seen := byHops[key]
		if !seen {
			i = len(checks)
			byHops[key] = i
			checks = append(checks, hopCheck{hops: hops})
		}
		checks[i].peers = append(checks[i].peers, p.Address)
	}
	if len(checks) == 1 && len(checks[0].hops) == 0 {
		return nil, nil
	}
	slices.Sort(own)
	return checks, slices.Compact(own)
}

func exact(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// allowedHops are the peer itself, the link's subnets, and all that is link-local: of these the view knows more.
func allowedHops(p Peer) []string {
	hops := []string{exact(p.Address), "fe80::/10"}
	for _, s := range p.Subnets {
		hops = append(hops, s.Masked().String())
	}
	slices.Sort(hops)
	return slices.Compact(hops)
}

// fromOnLink makes the statements that accept what matches, from whom and through which next hops it may come.
func (b *policyBuilder) fromOnLink(name string, match *api.MatchSet, checks []hopCheck) []*api.Statement {
	if len(checks) == 0 {
		return []*api.Statement{b.statement(name, &api.Conditions{PrefixSet: match}, acceptLearned())}
	}
	var out []*api.Statement
	for i, c := range checks {
		conditions := &api.Conditions{
			PrefixSet: match, NextHopInList: c.hops,
			NeighborSet: &api.MatchSet{Type: api.MatchSet_ANY, Name: fmt.Sprintf("hostfabric-onlink-%d", i+1)},
		}
		out = append(out, b.statement(fmt.Sprintf("%s-%d", name, i+1), conditions, acceptLearned()))
	}
	return out
}
