package bgp

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
)

const (
	importPolicy = "hostfabric-import"
	exportPolicy = "hostfabric-export"
	// globalTable is GoBGP's name of the only table a policy can be assigned to.
	globalTable = "global"
	// appliedSet is an AS path set no statement uses: its entries are the digests of what was applied last, written when
	// all of it was in effect. SetPolicies removes it, so that an interrupted change shows.
	appliedSet = "hostfabric-applied"
)

// policySet is everything that decides what crosses the sessions.
type policySet struct {
	request     *api.SetPoliciesRequest
	assignments []*api.PolicyAssignment
	// The digests tell what changed: the whole, what is imported from each peer, and how routes are sent to it. The mere set
	// of announced prefixes is only in the first: adding and deleting the paths carries its changes out.
	digest           string
	imports, exports map[netip.Addr]string
}

// mark is the content of appliedSet.
func (p policySet) mark() []string {
	out := slices.AppendSeq([]string{p.digest}, maps.Values(p.imports))
	out = slices.AppendSeq(out, maps.Values(p.exports))
	slices.Sort(out[1:])
	return out
}

// buildPolicies makes GoBGP's policies. They are global in GoBGP v3: differences between peers are neighbor conditions.
func buildPolicies(c Config, set []Announcement) policySet {
	b := &policyBuilder{}
	var imp, exp []*api.Statement
	def := api.RouteAction_REJECT
	peers := c.found()
	switch p := c.Policy.(type) {
	case HostPolicy:
		imp = b.hostImport(p, peers)
		exp = append(b.stripCommunities(peers), append(b.leaving(c), b.hostExport(peers, set)...)...)
	case TransitPolicy:
		def = api.RouteAction_ACCEPT
		imp = []*api.Statement{b.statement("import-all", &api.Conditions{}, accept())}
		exp = append([]*api.Statement{b.noAdvertise()}, b.explicitNextHop(set)...)
		exp = append(exp, b.nextHops(true, nil, peers)...)
		exp = append(exp, b.statement("export-all", &api.Conditions{}, accept()))
	}
	ps := policySet{
		request: &api.SetPoliciesRequest{
			DefinedSets: b.sets,
			Policies:    []*api.Policy{{Name: importPolicy, Statements: imp}, {Name: exportPolicy, Statements: exp}},
		},
		assignments: []*api.PolicyAssignment{
			{Name: globalTable, Direction: api.PolicyDirection_IMPORT, Policies: []*api.Policy{{Name: importPolicy}}, DefaultAction: def},
			{Name: globalTable, Direction: api.PolicyDirection_EXPORT, Policies: []*api.Policy{{Name: exportPolicy}}, DefaultAction: def},
		},
	}
	ps.digest = "all-" + digest(marshal(ps.request))
	ps.imports, ps.exports = map[netip.Addr]string{}, map[netip.Addr]string{}
	_, ours := hopChecks(peers)
	for _, p := range peers {
		// What is imported from one peer depends on no other one, but for their next hops that are our addresses: running
		// 100,000 routes through the policy takes GoBGP a second.
		alone := &policyBuilder{}
		if h, ok := c.Policy.(HostPolicy); ok {
			imp = alone.hostImport(h, []Peer{p})
		}
		ps.imports[p.Address] = "in-" + digest(fmt.Appendf(marshal(&api.SetPoliciesRequest{
			DefinedSets: alone.sets, Policies: []*api.Policy{{Statements: imp}},
		}), "%s %v", p.Address, ours))
		longer, leaves := c.leaves(p)
		ps.exports[p.Address] = "out-" + digest(fmt.Appendf(nil, "%T %s %s %t %t %v %v", c.Policy, p.Address, p.NextHop6,
			p.Communities.sendsStandard(), p.Communities.sendsLarge(), longer, leaves))
	}
	return ps
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err)) // only invalid UTF-8 could do that: the strings are ours
	}
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

type policyBuilder struct{ sets []*api.DefinedSet }

func accept() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ACCEPT} }
func reject() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_REJECT} }

// acceptLearned also evens out what would keep the same route of two routers from tying: FRR and BIRD set different
// origins and MEDs, and without a tie there is no ECMP.
func acceptLearned() *api.Actions {
	return &api.Actions{
		RouteAction:  api.RouteAction_ACCEPT,
		Med:          &api.MedAction{Type: api.MedAction_REPLACE, Value: 0},
		LocalPref:    &api.LocalPrefAction{Value: 100},
		OriginAction: &api.OriginAction{Origin: api.RouteOriginType_ORIGIN_IGP},
	}
}

func (b *policyBuilder) statement(name string, c *api.Conditions, a *api.Actions) *api.Statement {
	return &api.Statement{Name: "hostfabric-" + name, Conditions: c, Actions: a}
}

// prefixes defines a set of one family and returns the condition that matches it. GoBGP looks only at the longest entry
// that contains a route, so entries of one set must not overlap with different lengths.
func (b *policyBuilder) prefixes(name string, list []*api.Prefix) *api.MatchSet {
	name = "hostfabric-" + name
	b.sets = append(b.sets, &api.DefinedSet{DefinedType: api.DefinedType_PREFIX, Name: name, Prefixes: list})
	return &api.MatchSet{Type: api.MatchSet_ANY, Name: name}
}

func (b *policyBuilder) neighbors(name string, addrs []netip.Addr) *api.MatchSet {
	s := &api.DefinedSet{DefinedType: api.DefinedType_NEIGHBOR, Name: "hostfabric-" + name}
	for _, a := range addrs {
		a = a.WithZone("")
		s.List = append(s.List, netip.PrefixFrom(a, a.BitLen()).String())
	}
	b.sets = append(b.sets, s)
	return &api.MatchSet{Type: api.MatchSet_ANY, Name: s.Name}
}

func between(p netip.Prefix, lo, hi int) *api.Prefix {
	return &api.Prefix{IpPrefix: p.Masked().String(), MaskLengthMin: uint32(lo), MaskLengthMax: uint32(hi)}
}

func exactly(p netip.Prefix) *api.Prefix { return between(p, p.Bits(), p.Bits()) }

// hostImport accepts our own routes (GoBGP applies the import policy to local paths too), refuses our space whoever
// announces it, and accepts the listed prefixes. The default route is no exception: it comes in where it is listed.
func (b *policyBuilder) hostImport(p HostPolicy, peers []Peer) []*api.Statement {
	local := &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL}
	out := []*api.Statement{b.statement("import-local", local, accept())}
	out = append(out, b.refuseInternal(peers)...)
	for _, f := range []Family{IPv4, IPv6} {
		own := ofFamily(p.OwnSpace, f)
		if len(own) == 0 {
			continue
		}
		var inside, covering []*api.Prefix
		for _, o := range outermost(own) {
			inside = append(inside, between(o, o.Bits(), o.Addr().BitLen()))
		}
		for _, o := range supernets(own) {
			covering = append(covering, exactly(o))
		}
		name := "own-" + f.String()
		out = append(out, b.statement("import-"+name, &api.Conditions{PrefixSet: b.prefixes(name, inside)}, reject()))
		if len(covering) > 0 {
			name := "own-covering-" + f.String()
			out = append(out, b.statement("import-"+name, &api.Conditions{PrefixSet: b.prefixes(name, covering)}, reject()))
		}
	}
	checks, ours := hopChecks(peers)
	if len(ours) > 0 {
		out = append(out, b.statement("import-own-next-hop", &api.Conditions{NextHopInList: ours}, reject()))
	}
	for i, c := range checks {
		b.neighbors(fmt.Sprintf("onlink-%d", i+1), c.peers)
	}
	for i, r := range p.Import {
		lo, hi := r.lengths()
		name := fmt.Sprintf("listed-%d", i+1)
		set := b.prefixes(name, []*api.Prefix{between(r.Prefix, lo, hi)}) // a set each: the rules may overlap
		out = append(out, b.fromOnLink("import-"+name, set, checks)...)
	}
	return out
}

// hostExport accepts exactly the announced prefixes, and of those only what we originate.
func (b *policyBuilder) hostExport(peers []Peer, set []Announcement) []*api.Statement {
	local := func(s *api.MatchSet) *api.Conditions {
		return &api.Conditions{PrefixSet: s, RouteType: api.Conditions_ROUTE_TYPE_LOCAL}
	}
	out := b.explicitNextHop(set)
	for _, f := range []Family{IPv4, IPv6} {
		var list []*api.Prefix
		for _, a := range set {
			if FamilyOf(a.Prefix.Addr()) == f && (f == IPv4 || !a.NextHop.IsValid()) {
				list = append(list, exactly(a.Prefix))
			}
		}
		if f == IPv6 {
			out = append(out, b.nextHops(false, list, peers)...)
		}
		if len(list) > 0 {
			match := b.prefixes("announced-"+f.String(), list)
			out = append(out, b.statement("export-"+f.String(), local(match), accept()))
		}
	}
	return out
}

// noAdvertise keeps routes with the NO_ADVERTISE community from being sent on (RFC 1997), which GoBGP does not by itself.
func (b *policyBuilder) noAdvertise() *api.Statement {
	name := "hostfabric-no-advertise"
	community := fmt.Sprintf("%d:%d", NoAdvertise>>16, NoAdvertise&0xffff)
	b.sets = append(b.sets, &api.DefinedSet{DefinedType: api.DefinedType_COMMUNITY, Name: name, List: []string{community}})
	match := &api.MatchSet{Type: api.MatchSet_ANY, Name: name}
	return b.statement("export-no-advertise", &api.Conditions{CommunitySet: match, RouteType: api.Conditions_ROUTE_TYPE_EXTERNAL}, reject())
}

// explicitNextHop accepts the IPv6 announcements that name their next hop: no session changes it.
func (b *policyBuilder) explicitNextHop(set []Announcement) []*api.Statement {
	var list []*api.Prefix
	for _, a := range set {
		if a.Prefix.Addr().Is6() && a.NextHop.IsValid() {
			list = append(list, exactly(a.Prefix))
		}
	}
	if len(list) == 0 {
		return nil
	}
	c := &api.Conditions{PrefixSet: b.prefixes("announced-explicit", list), RouteType: api.Conditions_ROUTE_TYPE_LOCAL}
	return []*api.Statement{b.statement("export-explicit", c, accept())}
}

// nextHops deals with IPv6 routes on IPv4 sessions, where GoBGP would send the useless ::ffff:a.b.c.d: the peer's
// NextHop6 is set, and without one nothing is sent. In transit that goes for all IPv6 routes, else for the listed ones.
func (b *policyBuilder) nextHops(transit bool, list []*api.Prefix, peers []Peer) []*api.Statement {
	byHop := map[netip.Addr][]netip.Addr{}
	for _, p := range peers {
		if p.Address.Is4() {
			byHop[p.NextHop6] = append(byHop[p.NextHop6], p.Address)
		}
	}
	hops := make([]netip.Addr, 0, len(byHop))
	for h := range byHop {
		hops = append(hops, h)
	}
	// The zero address, of peers without a next hop, sorts first; the order of the rest does not matter.
	slices.SortFunc(hops, netip.Addr.Compare)
	if !transit && len(list) == 0 {
		return nil
	}
	var out []*api.Statement
	for i, h := range hops {
		addrs := byHop[h]
		slices.SortFunc(addrs, netip.Addr.Compare)
		name := fmt.Sprintf("nexthop6-%d", i)
		c := &api.Conditions{NeighborSet: b.neighbors(name, addrs), AfiSafiIn: []*api.Family{IPv6.api()}}
		if !transit {
			c.PrefixSet = b.prefixes("announced-"+name, list)
			c.RouteType = api.Conditions_ROUTE_TYPE_LOCAL
		}
		act := reject()
		if h.IsValid() {
			act = accept()
			act.Nexthop = &api.NexthopAction{Address: h.WithZone("").String()}
		}
		out = append(out, b.statement("export-"+name, c, act))
	}
	return out
}

func ofFamily(list []netip.Prefix, f Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		if FamilyOf(p.Addr()) == f {
			out = append(out, p.Masked())
		}
	}
	return out
}

// outermost drops prefixes that lie inside others.
func outermost(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var out []netip.Prefix
	for _, p := range list {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}

// supernets returns all prefixes that cover one of the list, without those themselves and without the default route.
func supernets(list []netip.Prefix) []netip.Prefix {
	seen := map[netip.Prefix]bool{}
	var out []netip.Prefix
	for _, p := range list {
		for bits := p.Bits() - 1; bits > 0; bits-- {
			s := netip.PrefixFrom(p.Addr(), bits).Masked()
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}
