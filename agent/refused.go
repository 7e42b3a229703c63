package agent

import (
	"errors"
	"fmt"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// ownSpace names who announces what is this host's.
func (s *Status) ownSpace() {
	for _, p := range s.Peers {
		var told, all uint64
		for _, f := range p.Families {
			all += f.Refused.OwnSpace
		}
		for _, r := range p.Refused {
			if r.Reason != bgp.OwnSpace {
				continue
			}
			told++
			from := ""
			if r.Origin != 0 && r.Origin != p.ASN {
				from = fmt.Sprintf(" of AS%d", r.Origin)
			}
			s.problem("peer %s (%s) announces %s%s, %s: somebody else uses this host's addresses; it is refused", p.Address, asn(p), r.Prefix, from, r.Detail)
		}
		if all > told {
			s.problem("peer %s (%s) announces %d more prefixes of this host's address space", p.Address, asn(p), all-told)
		}
	}
}

// refusedRoute tells of a learned route that the host's own keeps out. That a router announces the very network of a link is
// usual, and says nothing.
func (s *Status) refusedRoute(r routes.Status) {
	var why *routes.RefusedError
	if errors.As(r.Err, &why) && why.Foreign.Connected && why.Foreign.Prefix == r.Route.Prefix {
		return
	}
	hint := ""
	if r.Route.Prefix.Bits() == 0 {
		hint = "; if that is meant, set import_default: false"
	}
	s.problem("learned route %s is not installed: %v%s", r.Route.Prefix, r.Err, hint)
}

// such is an example of a family's prefixes without a usable next hop.
func such(refused []bgp.Refusal, f bgp.Family) string {
	for _, r := range refused {
		if r.Reason == bgp.NextHop && bgp.FamilyOf(r.Prefix.Addr()) == f {
			return fmt.Sprintf(", such as %s: %s", r.Prefix, r.Detail)
		}
	}
	return ""
}
