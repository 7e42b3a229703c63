package hosts

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/ipam"
)

// claimed are the hosts of the registry of claims, as it is at one moment.
type claimed struct {
	blocks *index[claimant]
	hosts  map[string][]claimant // by name in lower case, the one that spoke last first
	told   map[claimant][]netip.Addr
}

// claimant is an installation of a host: one that was set up anew is another, and may have left claims behind.
type claimant struct{ name, id string }

// newClaimed believes of what hosts tell of themselves what lies in their claims.
func newClaimed(claims []ipam.Claim, hosts []ipam.Host) *claimed {
	c := &claimed{blocks: newIndex[claimant](), hosts: map[string][]claimant{}, told: map[claimant][]netip.Addr{}}
	known := map[claimant]bool{}
	for _, claim := range claims {
		who := claimant{strings.ToLower(claim.Host), claim.ID}
		c.blocks.set(claim.Prefix, who)
		if who.id != "" { // else it cannot be read whose it is
			known[who] = true
		}
	}
	spoken := map[claimant]int64{}
	for _, h := range hosts {
		who := claimant{strings.ToLower(h.Name), h.ID}
		spoken[who] = h.Revision
		for _, addr := range h.Addresses {
			if by, ok := c.blocks.find(addr); ok && by == who {
				c.told[who] = merge(c.told[who], []netip.Addr{addr})
			}
		}
	}
	for who := range known {
		c.hosts[who.name] = append(c.hosts[who.name], who)
	}
	for _, all := range c.hosts {
		slices.SortFunc(all, func(a, b claimant) int { return cmp.Compare(spoken[b], spoken[a]) })
	}
	return c
}

func (c *claimed) host(name string) (servers []netip.Addr, known bool) {
	if c == nil {
		return nil, false
	}
	for _, who := range c.hosts[name] {
		servers, known = merge(servers, c.told[who]), true
	}
	return servers, known
}

func (c *claimed) of(addr netip.Addr) (servers []netip.Addr, known bool) {
	if c == nil {
		return nil, false
	}
	who, ok := c.blocks.find(addr)
	return c.told[who], ok
}
