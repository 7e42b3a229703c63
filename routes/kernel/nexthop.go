package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Ids of our nexthop objects ("hf" in the upper half). What else is in the range is left alone.
const (
	firstID uint32 = 0x68660001
	lastID  uint32 = 0x6866ffff
)

var errSuspended = errors.New("suspended")

// hops are the nexthop objects of ours. The caller serialises.
type hops struct {
	conn      *rtnl.Conn
	links     *links
	protocol  uint8
	log       *slog.Logger
	legs      map[routes.NextHop]*leg
	groups    map[string]*group // by setKey of their next hops, links named
	taken     map[uint32]bool   // ids in the kernel, ours or not, and in legs and groups
	next      uint32
	suspended map[netip.Addr]bool // with a zone: on that link alone
}

// leg is a nexthop object with a gateway.
type leg struct {
	id   uint32
	hop  routes.NextHop // with its link named
	live bool           // the kernel has it
	err  error          // why it could not be made
}

// group stands for a set of next hops. Its members in the kernel are those legs that are usable.
type group struct {
	id      uint32
	hops    []routes.NextHop
	legs    []*leg
	members []uint32 // in the kernel, sorted; empty: the kernel has no such group
}

func newHops(conn *rtnl.Conn, links *links, protocol uint8, log *slog.Logger) *hops {
	return &hops{
		conn: conn, links: links, protocol: protocol, log: log,
		legs: make(map[routes.NextHop]*leg), groups: make(map[string]*group),
		taken: make(map[uint32]bool), next: firstID, suspended: make(map[netip.Addr]bool),
	}
}

// sets returns what each group stands for. Callers do not modify the sets.
func (h *hops) sets() map[uint32][]routes.NextHop {
	sets := make(map[uint32][]routes.NextHop, len(h.groups))
	for _, g := range h.groups {
		sets[g.id] = g.hops
	}
	return sets
}

// isSuspended reports whether the leg's next hop is, there or on any link.
func (h *hops) isSuspended(l *leg) bool {
	return h.suspended[l.hop.Addr] || h.suspended[l.hop.Addr.WithZone(l.hop.Link)]
}

// cut removes the legs that are suspended, and with them the kernel takes them out of their groups: one message a leg, however many
// groups and routes there are. Were the groups replaced, the kernel would announce every route of theirs
// (net.ipv4.nexthop_compat_mode), about 1 us each, with the lock held that other suspensions wait for.
func (h *hops) cut() error {
	var b rtnl.Batch
	var cut []*leg
	for _, l := range h.legs {
		if l.live && h.isSuspended(l) {
			b.Begin(unix.RTM_DELNEXTHOP, 0)
			b.NextHop(unix.AF_UNSPEC, 0, 0, 0)
			b.Uint32(unix.NHA_ID, l.id)
			cut = append(cut, l)
		}
	}
	var errs []error
	for i, err := range h.conn.Do(&b, nil) {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("next hop %v: %w", cut[i].hop, err))
			continue
		}
		cut[i].live = false
	}
	return errors.Join(errs...)
}

// onLink reports whether some next hop is on the link.
func (h *hops) onLink(name string) bool {
	for hop := range h.legs {
		if hop.Link == name {
			return true
		}
	}
	return false
}

func (h *hops) suspend(addr netip.Addr, suspended bool) {
	if suspended {
		h.suspended[addr] = true
	} else {
		delete(h.suspended, addr)
	}
}

// ensure returns the group for the set, made if need be with those legs that are usable now.
func (h *hops) ensure(want []routes.NextHop) (uint32, error) {
	resolved, err := h.resolve(want)
	if err != nil {
		return 0, err
	}
	g, ok := h.groups[setKey(resolved)]
	if !ok {
		g = &group{id: h.newID(), hops: resolved}
		for _, hop := range resolved {
			g.legs = append(g.legs, h.leg(hop))
		}
		h.groups[setKey(resolved)] = g
	}
	if len(g.members) > 0 {
		return g.id, nil
	}
	h.revive(g.legs)
	if err := h.fill(g); err != nil {
		return 0, err
	}
	if len(g.members) == 0 {
		return 0, h.unusable(g)
	}
	return g.id, nil
}

// resolve names every link. A next hop that cannot be resolved is left out if others can.
func (h *hops) resolve(want []routes.NextHop) ([]routes.NextHop, error) {
	var resolved []routes.NextHop
	var errs []error
	for _, hop := range want {
		if hop.Link == "" {
			link, err := h.links.resolve(hop.Addr)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			hop.Link = link
		}
		resolved = append(resolved, hop)
	}
	if len(resolved) == 0 {
		return nil, errors.Join(errs...)
	}
	return resolved, nil
}

func (h *hops) leg(hop routes.NextHop) *leg {
	l, ok := h.legs[hop]
	if !ok {
		l = &leg{id: h.newID(), hop: hop}
		h.legs[hop] = l
	}
	return l
}

func (h *hops) newID() uint32 {
	for h.taken[h.next] {
		if h.next++; h.next > lastID {
			h.next = firstID
		}
	}
	h.taken[h.next] = true
	return h.next
}

// usable returns the ids of the legs that the group should have, sorted.
func (h *hops) usable(g *group) []uint32 {
	var ids []uint32
	for _, l := range g.legs {
		if l.live && !h.isSuspended(l) {
			ids = append(ids, l.id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (h *hops) unusable(g *group) error {
	var errs []error
	for _, l := range g.legs {
		err := l.err
		if h.isSuspended(l) {
			err = errSuspended
		}
		errs = append(errs, fmt.Errorf("next hop %v: %w", l.hop, err))
	}
	return errors.Join(errs...)
}

// sync reads the kernel's nexthops, takes in those of an earlier run, makes the legs that are missing as far as their
// links allow, and gives every group the legs that are usable.
func (h *hops) sync() error {
	objects, err := h.dump()
	if err != nil {
		return fmt.Errorf("list nexthops: %w", err)
	}
	h.adopt(objects)
	for _, l := range h.legs {
		o, ok := objects[l.id]
		l.live = ok && o.group == nil && h.links.name(o.index) == l.hop.Link
	}
	for _, g := range h.groups {
		g.members = objects[g.id].group
	}
	var dead []*leg
	for _, l := range h.legs {
		if !l.live {
			dead = append(dead, l)
		}
	}
	h.revive(dead)
	var errs []error
	for _, g := range h.groups {
		if !slices.Equal(g.members, h.usable(g)) {
			errs = append(errs, h.fill(g))
		}
	}
	return errors.Join(errs...)
}

func (h *hops) ours(id uint32, o object) bool {
	return o.protocol == h.protocol && id >= firstID && id <= lastID
}

// revive tries to make the legs that the kernel lacks and that are not suspended. It refuses those whose link is down, which is no
// failure here.
func (h *hops) revive(legs []*leg) {
	var b rtnl.Batch
	var tried []*leg
	for _, l := range legs {
		if l.live || h.isSuspended(l) {
			continue
		}
		index, err := h.links.index(l.hop.Link)
		if err != nil {
			h.died(l, err)
			continue
		}
		var flags uint32
		if l.hop.Onlink {
			flags = unix.RTNH_F_ONLINK
		}
		b.Begin(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
		b.NextHop(family(l.hop.Addr), 0, h.protocol, flags)
		b.Uint32(unix.NHA_ID, l.id)
		b.Uint32(unix.NHA_OIF, uint32(index))
		b.IP(unix.NHA_GATEWAY, l.hop.Addr)
		tried = append(tried, l)
	}
	for i, err := range h.conn.Do(&b, nil) {
		if l := tried[i]; err != nil {
			h.died(l, err)
		} else {
			l.live, l.err = true, nil
			h.log.Info("next hop usable", "nexthop", l.hop.String())
		}
	}
}

func (h *hops) died(l *leg, err error) {
	if l.err == nil || l.err.Error() != err.Error() {
		h.log.Warn("next hop not usable", "nexthop", l.hop.String(), "error", err)
	}
	l.err = err
}

// fill gives the kernel's group the legs that are usable. Without any the group goes, and its routes with it: traffic
// follows the next best route instead of being sent nowhere.
func (h *hops) fill(g *group) error {
	want := h.usable(g)
	var b rtnl.Batch
	if len(want) == 0 {
		if len(g.members) == 0 {
			return nil
		}
		b.Begin(unix.RTM_DELNEXTHOP, 0)
		b.NextHop(unix.AF_UNSPEC, 0, 0, 0)
		b.Uint32(unix.NHA_ID, g.id)
	} else {
		b.Begin(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
		b.NextHop(unix.AF_UNSPEC, 0, h.protocol, 0)
		b.Uint32(unix.NHA_ID, g.id)
		b.Bytes(unix.NHA_GROUP, members(want))
	}
	if err := h.conn.One(&b, nil); err != nil && (len(want) > 0 || !errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("nexthop group %d (%v): %w", g.id, g.hops, err)
	}
	g.members = want
	return nil
}
