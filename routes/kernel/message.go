package kernel

import (
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Not in x/sys/unix: RTA_NH_ID, from linux/rtnetlink.h.
const rtaNextHopID = 30

// ensured is the outcome of asking for a set of next hops once in a batch.
type ensured struct {
	group uint32
	err   error
}

// encode appends an addition or replacement to the batch and notes in u what the route needs. Sets of next hops are
// made ready once a batch. Caller holds mu.
func (f *FIB) encode(b *rtnl.Batch, c routes.Change, u *use, sets map[string]ensured) error {
	r := c.Route
	index := 0
	u.shape = shape{unix.RTN_UNICAST, unix.RT_SCOPE_UNIVERSE}
	if r.Kind == routes.Blackhole {
		u.shape.typ = unix.RTN_BLACKHOLE
	} else {
		var err error
		if len(r.NextHops) == 1 && !r.NextHops[0].Addr.IsValid() {
			u.link, u.shape.scope = r.NextHops[0].Link, unix.RT_SCOPE_LINK
			index, err = f.links.index(u.link)
		} else {
			u.group, err = f.group(r.NextHops, sets)
		}
		if err != nil {
			return err
		}
	}
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if c.Op == routes.Replace {
		flags = unix.NLM_F_REPLACE
	}
	b.Begin(unix.RTM_NEWROUTE, flags)
	f.identify(b, r, u.shape)
	if r.Source.IsValid() {
		b.IP(unix.RTA_PREFSRC, r.Source)
	}
	if u.group != 0 {
		b.Uint32(rtaNextHopID, u.group)
	} else if index != 0 {
		b.Uint32(unix.RTA_OIF, uint32(index))
	}
	return nil
}

func (f *FIB) group(hops []routes.NextHop, sets map[string]ensured) (uint32, error) {
	key := setKey(hops)
	done, ok := sets[key]
	if !ok {
		done.group, done.err = f.hops.ensure(hops)
		sets[key] = done
	}
	return done.group, done.err
}

// remove appends the deletion of a route. For an IPv4 metric of 0 the kernel takes any, so that only type and scope
// tell a container's route that went with its link from the discard or learned route of the same prefix.
func (f *FIB) remove(b *rtnl.Batch, r routes.Route, s shape) {
	b.Begin(unix.RTM_DELROUTE, 0)
	f.identify(b, r, s)
}

// identify appends the header and the attributes that make up a route's identity.
func (f *FIB) identify(b *rtnl.Batch, r routes.Route, s shape) {
	b.Route(rtnl.RouteHeader{
		Family:   family(r.Prefix.Addr()),
		Bits:     uint8(r.Prefix.Bits()),
		Table:    f.opts.Table,
		Protocol: uint8(f.opts.Protocol),
		Scope:    s.scope,
		Type:     s.typ,
	})
	if r.Prefix.Bits() > 0 {
		b.IP(unix.RTA_DST, r.Prefix.Addr())
	}
	if f.opts.Table > 255 {
		b.Uint32(unix.RTA_TABLE, uint32(f.opts.Table))
	}
	if r.Metric != 0 {
		b.Uint32(unix.RTA_PRIORITY, r.Metric)
	}
}

// rawRoute is a listed route before indices have names.
type rawRoute struct {
	route    routes.Route
	table    int
	protocol uint8
	shape    shape
	group    uint32
	index    int
	gateway  netip.Addr
	onlink   bool
}

// parseRoute reads an RTM_NEWROUTE. A kind of route that is never written here comes out as unicast without next hops:
// if it carries our protocol, it will differ from whatever is wanted.
func parseRoute(m rtnl.Message) (raw rawRoute, ok bool) {
	p := m.Payload
	if m.Type != unix.RTM_NEWROUTE && m.Type != unix.RTM_DELROUTE || len(p) < unix.SizeofRtMsg {
		return raw, false
	}
	h := nl.DeserializeRtMsg(p)
	raw.table, raw.protocol, raw.shape = int(h.Table), h.Protocol, shape{h.Type, h.Scope}
	raw.onlink = h.Flags&unix.RTNH_F_ONLINK != 0
	dst := netip.IPv4Unspecified()
	if h.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	rtnl.Attributes(p[h.Len():], func(typ uint16, v []byte) {
		switch typ {
		case unix.RTA_DST:
			dst = rtnl.Addr(v)
		case unix.RTA_TABLE:
			raw.table = int(rtnl.Uint32(v))
		case unix.RTA_PRIORITY:
			raw.route.Metric = rtnl.Uint32(v)
		case unix.RTA_PREFSRC:
			raw.route.Source = rtnl.Addr(v)
		case unix.RTA_OIF:
			raw.index = int(rtnl.Uint32(v))
		case unix.RTA_GATEWAY:
			raw.gateway = rtnl.Addr(v)
		case unix.RTA_VIA:
			if len(v) > 2 { // struct rtvia: a family of two bytes, then the address
				raw.gateway = rtnl.Addr(v[2:])
			}
		case rtaNextHopID:
			raw.group = rtnl.Uint32(v)
		}
	})
	raw.route.Prefix = netip.PrefixFrom(dst, int(h.Dst_len))
	if h.Type == unix.RTN_BLACKHOLE {
		raw.route.Kind, raw.index = routes.Blackhole, 0 // an IPv6 blackhole names the loopback
	} else if h.Type != unix.RTN_UNICAST {
		raw.index = 0
	}
	return raw, raw.route.Prefix.IsValid() && h.Flags&unix.RTM_F_CLONED == 0
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// setKey identifies a set of next hops in canonical order.
func setKey(hops []routes.NextHop) string {
	key := make([]byte, 0, 64)
	for _, n := range hops {
		key = append(key, n.Addr.AsSlice()...)
		key = append(key, n.Link...)
		if n.Onlink {
			key = append(key, ' ')
		}
		key = append(key, '/') // in no interface name
	}
	return string(key)
}
