package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// adopt takes nexthops of ours that an earlier run left into the books: legs first, since groups refer to them.
func (h *hops) adopt(objects map[uint32]object) {
	byID := make(map[uint32]*leg, len(h.legs))
	known := make(map[uint32]bool, len(h.legs)+len(h.groups))
	for _, l := range h.legs {
		byID[l.id], known[l.id] = l, true
	}
	for _, g := range h.groups {
		known[g.id] = true
	}
	for id, o := range objects {
		h.taken[id] = true
		if known[id] || o.group != nil || !h.ours(id, o) || !o.gateway.IsValid() {
			continue
		}
		hop := routes.NextHop{Addr: o.gateway, Link: h.links.name(o.index), Onlink: o.onlink}
		if _, twice := h.legs[hop]; !twice {
			h.legs[hop] = &leg{id: id, hop: hop}
			byID[id] = h.legs[hop]
		}
	}
	for id, o := range objects {
		if known[id] || o.group == nil || !h.ours(id, o) {
			continue
		}
		g := &group{id: id}
		for _, member := range o.group {
			if l := byID[member]; l != nil {
				g.legs = append(g.legs, l)
			}
		}
		if len(g.legs) < len(o.group) {
			continue // has legs that are not ours: its routes will be replaced, then it is collected
		}
		slices.SortFunc(g.legs, func(a, b *leg) int {
			return cmp.Or(a.hop.Addr.Compare(b.hop.Addr), cmp.Compare(a.hop.Link, b.hop.Link))
		})
		for _, l := range g.legs {
			g.hops = append(g.hops, l.hop)
		}
		if _, twice := h.groups[setKey(g.hops)]; !twice {
			h.groups[setKey(g.hops)] = g
		}
	}
}

// collect removes what is ours and neither in use nor part of something in use.
func (h *hops) collect(used map[uint32]bool) error {
	objects, err := h.dump()
	if err != nil {
		return fmt.Errorf("list nexthops: %w", err)
	}
	keep := make(map[uint32]bool)
	for key, g := range h.groups {
		if !used[g.id] {
			delete(h.groups, key)
			continue
		}
		keep[g.id] = true
		for _, l := range g.legs {
			keep[l.id] = true
		}
	}
	for hop, l := range h.legs {
		if !keep[l.id] {
			delete(h.legs, hop)
		}
	}
	for id, o := range objects {
		if used[id] { // of an unknown make, until its routes are replaced
			for _, member := range o.group {
				keep[member] = true
			}
		}
	}
	clear(h.taken)
	var b rtnl.Batch
	// Groups first: removing a leg would edit them.
	for _, groups := range []bool{true, false} {
		for id, o := range objects {
			if keep[id] || used[id] || !h.ours(id, o) {
				h.taken[id] = true
			} else if (o.group != nil) == groups {
				b.Begin(unix.RTM_DELNEXTHOP, 0)
				b.NextHop(unix.AF_UNSPEC, 0, 0, 0)
				b.Uint32(unix.NHA_ID, id)
			}
		}
	}
	for id := range keep {
		h.taken[id] = true
	}
	for _, err := range h.conn.Do(&b, nil) {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			h.log.Warn("cannot remove an unused nexthop", "error", err)
		}
	}
	return nil
}
