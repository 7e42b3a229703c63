// Package rtnl adds to the netlink library what the hot paths need and it lacks: several requests in one system call
// with an error for each of them, nexthop objects, and dumps that start again when the kernel says they were
// interrupted. Sockets, request headers and attributes are the library's.
package rtnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Batch is a sequence of requests under construction: Begin, header and attributes, Begin again. Do sends them.
// The zero value is empty and ready.
type Batch struct {
	requests []*nl.NetlinkRequest
	open     []*nl.RtAttr // what Nest began and EndNest has not ended
}

// Len is the number of requests.
func (b *Batch) Len() int { return len(b.requests) }

// Begin starts a request of the given type. NLM_F_REQUEST is implied; NLM_F_ACK belongs to Do, NLM_F_DUMP to Dump.
func (b *Batch) Begin(typ, flags uint16) {
	b.requests = append(b.requests, nl.NewNetlinkRequest(int(typ), int(flags)))
}

// add appends to the innermost attribute that is open, or else to the request.
func (b *Batch) add(d nl.NetlinkRequestData) {
	if n := len(b.open); n > 0 {
		b.open[n-1].AddChild(d)
	} else {
		b.requests[len(b.requests)-1].AddData(d)
	}
}

// Link appends a struct ifinfomsg. Flags that are set in change are given the value they have in flags.
func (b *Batch) Link(index int, flags, change uint32) {
	b.add(&nl.IfInfomsg{IfInfomsg: unix.IfInfomsg{Index: int32(index), Flags: flags, Change: change}})
}

// Address appends a struct ifaddrmsg. Flags beyond eight bits go in the attribute IFA_FLAGS.
func (b *Batch) Address(family, bits uint8, index int) {
	b.add(&nl.IfAddrmsg{IfAddrmsg: unix.IfAddrmsg{Family: family, Prefixlen: bits, Scope: unix.RT_SCOPE_UNIVERSE, Index: uint32(index)}})
}

// Neighbour appends a struct ndmsg. Its type is for the kernel to tell, which refuses a dump that has one.
func (b *Batch) Neighbour(family uint8, index int, state uint16) {
	b.add(&netlink.Ndmsg{Family: family, Index: uint32(index), State: state})
}

// Netfilter appends a struct nfgenmsg.
func (b *Batch) Netfilter(family uint8) {
	b.add(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
}

// RouteHeader is the part of a struct rtmsg that is used here.
type RouteHeader struct {
	Family, Bits    uint8
	Table           int // above 255 it also needs RTA_TABLE
	Protocol, Scope uint8
	Type            uint8
	Flags           uint32
}

// Route appends a struct rtmsg.
func (b *Batch) Route(h RouteHeader) {
	m := unix.RtMsg{Family: h.Family, Dst_len: h.Bits, Protocol: h.Protocol, Scope: h.Scope, Type: h.Type, Flags: h.Flags}
	if h.Table < 256 {
		m.Table = uint8(h.Table)
	}
	b.add(&nl.RtMsg{RtMsg: m})
}

// nextHop is a struct nhmsg, which the library does not know.
type nextHop [unix.SizeofNhmsg]byte

func (n *nextHop) Len() int          { return len(n) }
func (n *nextHop) Serialize() []byte { return n[:] }

// NextHop appends a struct nhmsg.
func (b *Batch) NextHop(family, scope, protocol uint8, flags uint32) {
	n := &nextHop{family, scope, protocol}
	binary.NativeEndian.PutUint32(n[4:], flags)
	b.add(n)
}

// Bytes appends an attribute. The value is not copied.
func (b *Batch) Bytes(typ uint16, v []byte) { b.add(nl.NewRtAttr(int(typ), v)) }

// Uint32 appends an attribute of four bytes in host order.
func (b *Batch) Uint32(typ uint16, v uint32) { b.Bytes(typ, nl.Uint32Attr(v)) }

// Uint8 appends an attribute of one byte.
func (b *Batch) Uint8(typ uint16, v uint8) { b.Bytes(typ, nl.Uint8Attr(v)) }

// String appends an attribute with a terminating zero.
func (b *Batch) String(typ uint16, s string) { b.Bytes(typ, nl.ZeroTerminated(s)) }

// IP appends an attribute of 4 or 16 bytes in network order.
func (b *Batch) IP(typ uint16, a netip.Addr) { b.Bytes(typ, a.AsSlice()) }

// Nest starts an attribute that holds others; EndNest, given its return value, closes it.
func (b *Batch) Nest(typ uint16) int {
	attr := nl.NewRtAttr(int(typ), nil)
	b.add(attr)
	b.open = append(b.open, attr)
	return len(b.open) - 1
}

// NestLink is Nest followed by a struct ifinfomsg, the form of VETH_INFO_PEER.
func (b *Batch) NestLink(typ uint16, flags, change uint32) int {
	at := b.Nest(typ)
	b.Link(0, flags, change)
	return at
}

// EndNest closes what Nest opened.
func (b *Batch) EndNest(at int) { b.open = b.open[:at] }
