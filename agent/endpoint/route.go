package endpoint

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Not in x/sys/unix: RTA_NH_ID, from linux/rtnetlink.h.
const rtaNextHopID = 30

// route is one that is not ours.
type route struct {
	dst           netip.Prefix
	typ, protocol uint8 // RTN_*, RTPROT_*
	table         int
	index         int    // of the first link it leads to; 0: none
	nextHop       uint32 // nexthop object, or 0
}

// parseForeign reads an RTM_NEWROUTE and reports whether it is somebody else's and leads anywhere.
func parseForeign(m rtnl.Message) (r route, ok bool) {
	p := m.Payload
	if m.Type != unix.RTM_NEWROUTE || len(p) < unix.SizeofRtMsg {
		return r, false
	}
	h := nl.DeserializeRtMsg(p)
	r.typ, r.protocol, r.table = h.Type, h.Protocol, int(h.Table)
	switch r.typ {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return r, false
	}
	if r.protocol == rtnl.Protocol || h.Dst_len == 0 || h.Flags&unix.RTM_F_CLONED != 0 {
		return r, false
	}
	rtnl.Attributes(p[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.RTA_DST:
			r.dst = netip.PrefixFrom(rtnl.Addr(v), int(h.Dst_len))
		case unix.RTA_TABLE:
			r.table = int(rtnl.Uint32(v))
		case unix.RTA_OIF:
			r.index = int(rtnl.Uint32(v))
		case unix.RTA_MULTIPATH:
			const indexAt = 4 // in struct rtnexthop
			if len(v) >= unix.SizeofRtNexthop {
				r.index = int(binary.NativeEndian.Uint32(v[indexAt:]))
			}
		case rtaNextHopID:
			r.nextHop = rtnl.Uint32(v)
		}
	})
	return r, r.dst.IsValid()
}

// within reports whether the route is to the block or a part of it.
func (r route) within(block netip.Prefix) bool {
	return r.dst.Bits() >= block.Bits() && block.Contains(r.dst.Addr())
}

// derived reports whether the kernel made the route for a single address by itself.
func (r route) derived() bool { return r.protocol == unix.RTPROT_KERNEL && r.dst.IsSingleIP() }

// describe tells what the route is in the terms of ip route, or which address the kernel made it for.
func (r route) describe(names *linkNames) string {
	kind, by := "", ""
	switch {
	case r.typ == unix.RTN_LOCAL && r.derived():
		return "address of " + names.of(r.index)
	case r.typ != unix.RTN_UNICAST && r.derived():
		return number(routeTypes, int(r.typ)) + " address of " + names.of(r.index)
	case r.typ != unix.RTN_UNICAST:
		kind = number(routeTypes, int(r.typ)) + " "
	}
	switch {
	case r.index != 0:
		by = " by " + names.of(r.index)
	case r.nextHop != 0:
		by = fmt.Sprintf(" by nexthop %d", r.nextHop)
	}
	return fmt.Sprintf("%sroute to %v%s (proto %s, table %s)", kind, r.dst, by, number(routeProtocols, int(r.protocol)), number(routeTables, r.table))
}

// iproute2's words for numbers (rt_protos, rt_tables).
var (
	routeTypes = map[int]string{
		unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast",
	}
	routeProtocols = map[int]string{
		unix.RTPROT_REDIRECT: "redirect", unix.RTPROT_KERNEL: "kernel", unix.RTPROT_BOOT: "boot", unix.RTPROT_STATIC: "static",
		unix.RTPROT_RA: "ra", unix.RTPROT_ZEBRA: "zebra", unix.RTPROT_BIRD: "bird", unix.RTPROT_DHCP: "dhcp",
		unix.RTPROT_KEEPALIVED: "keepalived", unix.RTPROT_BABEL: "babel", unix.RTPROT_BGP: "bgp", unix.RTPROT_ISIS: "isis",
		unix.RTPROT_OSPF: "ospf", unix.RTPROT_RIP: "rip", unix.RTPROT_EIGRP: "eigrp",
	}
	routeTables = map[int]string{unix.RT_TABLE_MAIN: "main", unix.RT_TABLE_LOCAL: "local", unix.RT_TABLE_DEFAULT: "default"}
)

func number(names map[int]string, n int) string {
	if name, ok := names[n]; ok {
		return name
	}
	return fmt.Sprint(n)
}

// linkNames looks up the names of links.
type linkNames struct {
	conn  *rtnl.Conn
	known map[int]string
}

// of returns the link's name, or its number if it has gone.
func (n *linkNames) of(index int) string {
	name, ok := n.known[index]
	if ok {
		return name
	}
	var b rtnl.Batch
	b.Begin(unix.RTM_GETLINK, 0)
	b.Link(index, 0, 0)
	b.Uint32(unix.IFLA_EXT_MASK, skipStats)
	err := n.conn.One(&b, func(m rtnl.Message) {
		l, _ := parseLink(m)
		name = l.name
	})
	if err != nil || name == "" {
		name = fmt.Sprintf("link %d", index)
	}
	n.known[index] = name
	return name
}
