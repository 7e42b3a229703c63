package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Found is what the kernel's forwarding table says of an address: the route that the host's own packets to it take.
type Found struct {
	Prefix netip.Prefix // of the route; zero where there is none, or none that the kernel shows
	Kind   string       // as ip route names it: unicast, local, blackhole, unreachable, prohibit; "none" without a route
	Ours   bool         // it has our protocol number
	Hops   []Hop
}

// Hop is one leg of a route.
type Hop struct {
	Addr netip.Addr // zero: directly on the link
	Link string
}

func (h Hop) String() string {
	if !h.Addr.IsValid() {
		return "dev " + h.Link
	}
	return "via " + h.Addr.String() + " dev " + h.Link
}

func (f Found) String() string {
	var parts []string
	if f.Kind != "unicast" {
		parts = append(parts, f.Kind)
	}
	if f.Prefix.IsValid() {
		parts = append(parts, f.Prefix.String())
	}
	for _, h := range f.Hops {
		parts = append(parts, h.String())
	}
	return strings.Join(parts, " ")
}

// Lookup asks the kernel's forwarding table about an address.
func (w *Wirer) Lookup(ctx context.Context, addr netip.Addr) (Found, error) {
	if err := ctx.Err(); err != nil {
		return Found{}, err
	}
	var b rtnl.Batch
	flags := uint32(unix.RTM_F_FIB_MATCH)
	if addr.Is4() {
		flags |= unix.RTM_F_LOOKUP_TABLE
	}
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Route(rtnl.RouteHeader{Family: family(addr), Bits: uint8(addr.BitLen()), Flags: flags})
	b.IP(unix.RTA_DST, addr)
	names := linkNames{conn: w.list, known: make(map[int]string)}
	var f Found
	var index []int
	err := w.host.One(&b, func(m rtnl.Message) { f, index = parseFound(m, addr) })
	switch {
	case err == nil:
	case errors.Is(err, unix.EINVAL):
		return Found{Kind: "blackhole"}, nil
	case errors.Is(err, unix.EHOSTUNREACH):
		return Found{Kind: "unreachable"}, nil
	case errors.Is(err, unix.EACCES):
		return Found{Kind: "prohibit"}, nil
	case errors.Is(err, unix.ENETUNREACH):
		return Found{Kind: "none"}, nil
	default:
		return Found{}, fmt.Errorf("look up the route to %v: %w", addr, err)
	}
	for i := range f.Hops {
		f.Hops[i].Link = names.of(index[i])
	}
	return f, nil
}

// parseFound reads an RTM_NEWROUTE that answers a question about addr. The links of the hops are told by index.
func parseFound(m rtnl.Message, addr netip.Addr) (f Found, index []int) {
	p := m.Payload
	if m.Type != unix.RTM_NEWROUTE || len(p) < unix.SizeofRtMsg {
		return Found{Kind: "none"}, nil
	}
	h := nl.DeserializeRtMsg(p)
	f = Found{Kind: "unicast", Ours: h.Protocol == rtnl.Protocol}
	if h.Type != unix.RTN_UNICAST {
		f.Kind = number(foundKinds, int(h.Type))
	}
	f.Prefix, _ = addr.Prefix(int(h.Dst_len)) // a default route comes without its address
	hop := func(oif int, attrs []byte) {
		next := Hop{Addr: gatewayOf(attrs)}
		f.Hops, index = append(f.Hops, next), append(index, oif)
	}
	oif := 0
	rtnl.Attributes(p[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.RTA_OIF:
			oif = int(rtnl.Uint32(v))
		case unix.RTA_MULTIPATH:
			for len(v) >= unix.SizeofRtNexthop {
				size := int(binary.NativeEndian.Uint16(v))
				if size < unix.SizeofRtNexthop || size > len(v) {
					return
				}
				hop(int(binary.NativeEndian.Uint32(v[4:])), v[unix.SizeofRtNexthop:size])
				v = v[min((size+3)&^3, len(v)):]
			}
		}
	})
	if len(f.Hops) == 0 && oif != 0 {
		hop(oif, p[unix.SizeofRtMsg:])
	}
	return f, index
}

var foundKinds = map[int]string{
	unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// gatewayOf reads the next hop among a leg's attributes; RTA_VIA is one of the other family.
func gatewayOf(attrs []byte) (gw netip.Addr) {
	const familySize = 2 // in struct rtvia
	rtnl.Attributes(attrs, func(typ uint16, v []byte) {
		switch {
		case typ == unix.RTA_GATEWAY:
			gw = rtnl.Addr(v)
		case typ == unix.RTA_VIA && len(v) > familySize:
			gw = rtnl.Addr(v[familySize:])
		}
	})
	return gw
}

// LinkUp says whether a host end is there, and up at both ends.
func (w *Wirer) LinkUp(ctx context.Context, hostLink string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := getLink(w.host, hostLink)
	switch {
	case err != nil:
		return err
	case !l.up:
		return fmt.Errorf("link %s is down", hostLink)
	case l.state != operUp:
		return fmt.Errorf("the container's end of link %s is down", hostLink)
	}
	return nil
}
