// Package rtnl is the small part of rtnetlink that the hot paths need and the general library lacks: several requests
// in one system call with errors attributed to each of them, echoed replies, dumps that retry when the kernel says they
// were interrupted, and sockets opened in another network namespace.
package rtnl

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Batch is a sequence of requests under construction: Begin, header and attributes, Begin again. Do sends them.
// The zero value is empty and ready; Reset keeps the memory.
type Batch struct {
	buf    []byte
	starts []int
}

// Reset empties the batch.
func (b *Batch) Reset() { b.buf, b.starts = b.buf[:0], b.starts[:0] }

// Len is the number of requests.
func (b *Batch) Len() int { return len(b.starts) }

// Begin starts a request of the given type. NLM_F_REQUEST is implied; NLM_F_ACK belongs to Do.
func (b *Batch) Begin(typ uint16, flags uint16) {
	b.finish()
	b.starts = append(b.starts, len(b.buf))
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // length, set by finish
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, unix.NLM_F_REQUEST|flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // sequence number, set by Do
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // port: the kernel's
}

// finish sets the length of the last request.
func (b *Batch) finish() {
	if n := len(b.starts); n > 0 {
		at := b.starts[n-1]
		binary.NativeEndian.PutUint32(b.buf[at:], uint32(len(b.buf)-at))
	}
}

// Link appends a struct ifinfomsg. Flags that are set in change are given the value they have in flags.
func (b *Batch) Link(index int, flags, change uint32) {
	b.buf = append(b.buf, unix.AF_UNSPEC, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(index))
	b.buf = binary.NativeEndian.AppendUint32(b.buf, flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, change)
}

// Address appends a struct ifaddrmsg. Flags beyond eight bits go in the attribute IFA_FLAGS.
func (b *Batch) Address(family, bits uint8, index int) {
	b.buf = append(b.buf, family, bits, 0, unix.RT_SCOPE_UNIVERSE)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(index))
}

// Neighbour appends a struct ndmsg.
func (b *Batch) Neighbour(family uint8, index int, state uint16) {
	b.buf = append(b.buf, family, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(index))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, state)
	b.buf = append(b.buf, 0, unix.RTN_UNICAST)
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
	table := uint8(unix.RT_TABLE_UNSPEC)
	if h.Table < 256 {
		table = uint8(h.Table)
	}
	b.buf = append(b.buf, h.Family, h.Bits, 0, 0, table, h.Protocol, h.Scope, h.Type)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, h.Flags)
}

// NextHop appends a struct nhmsg.
func (b *Batch) NextHop(family, scope, protocol uint8, flags uint32) {
	b.buf = append(b.buf, family, scope, protocol, 0)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, flags)
}

// Bytes appends an attribute.
func (b *Batch) Bytes(typ uint16, v []byte) {
	b.head(typ, len(v))
	b.buf = append(b.buf, v...)
	b.pad()
}

// Uint32 appends an attribute of four bytes in host order.
func (b *Batch) Uint32(typ uint16, v uint32) {
	b.head(typ, 4)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, v)
}

// Uint8 appends an attribute of one byte.
func (b *Batch) Uint8(typ uint16, v uint8) {
	b.head(typ, 1)
	b.buf = append(b.buf, v)
	b.pad()
}

// String appends an attribute with a terminating zero.
func (b *Batch) String(typ uint16, s string) {
	b.head(typ, len(s)+1)
	b.buf = append(b.buf, s...)
	b.buf = append(b.buf, 0)
	b.pad()
}

// IP appends an attribute of 4 or 16 bytes in network order.
func (b *Batch) IP(typ uint16, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		b.Bytes(typ, v[:])
		return
	}
	v := a.As16()
	b.Bytes(typ, v[:])
}

// Nest starts an attribute that holds others; EndNest, given its return value, closes it.
func (b *Batch) Nest(typ uint16) int {
	at := len(b.buf)
	b.head(typ, 0)
	return at
}

// NestLink is Nest followed by a struct ifinfomsg, the form of VETH_INFO_PEER.
func (b *Batch) NestLink(typ uint16, flags, change uint32) int {
	at := b.Nest(typ)
	b.Link(0, flags, change)
	return at
}

// EndNest closes what Nest opened.
func (b *Batch) EndNest(at int) {
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

func (b *Batch) head(typ uint16, size int) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+size))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
}

// pad aligns to four bytes. Every request starts aligned, so the position in the buffer is the position in the request.
func (b *Batch) pad() {
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}
