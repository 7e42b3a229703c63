// Package spoof sends what a container's own kernel would not send for it, from raw sockets in its namespace: packets with
// any source, and what pretends to be a neighbour. It shows what of that arrives where.
package spoof

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Kind is of a packet's transport.
type Kind string

// The kinds of packets.
const (
	UDP  Kind = "UDP"
	SYN  Kind = "TCP SYN"
	Echo Kind = "echo request"
)

// Kinds are all of them.
var Kinds = []Kind{UDP, SYN, Echo}

// Packet is one that is told from others by its number.
type Packet struct {
	Kind     Kind
	From, To netip.Addr
	Port     uint16 // of the destination; echo requests have none
	Number   uint32
}

func (p Packet) String() string { return fmt.Sprintf("%s from %s to %s", p.Kind, p.From, p.To) }

// magic goes before the number in the payload.
var magic = []byte("hostfabric spoof")

// number finds that of a packet of ours.
func number(raw []byte) (uint32, bool) {
	_, after, ok := bytes.Cut(raw, magic)
	if !ok || len(after) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(after), true
}

// sourcePort is that of all packets.
const sourcePort = 40000

// Bytes is the packet from its IP header on, with right checksums.
func (p Packet) Bytes() []byte {
	payload := binary.BigEndian.AppendUint32(bytes.Clone(magic), p.Number)
	var body []byte
	protocol, sumAt := byte(unix.IPPROTO_UDP), 6
	switch p.Kind {
	case UDP:
		body = binary.BigEndian.AppendUint16(nil, sourcePort)
		body = binary.BigEndian.AppendUint16(body, p.Port)
		body = binary.BigEndian.AppendUint16(body, uint16(8+len(payload)))
		body = append(body, 0, 0)
	case SYN:
		protocol, sumAt = unix.IPPROTO_TCP, 16
		body = binary.BigEndian.AppendUint16(nil, sourcePort)
		body = binary.BigEndian.AppendUint16(body, p.Port)
		const words, syn = 5 << 4, 2
		body = append(body, 0, 0, 0, 1, 0, 0, 0, 0, words, syn, 0xff, 0xff, 0, 0, 0, 0)
	case Echo:
		protocol, sumAt = unix.IPPROTO_ICMP, 2
		body = []byte{8, 0, 0, 0, 0, 1, 0, 1}
		if p.To.Is6() {
			protocol, body[0] = unix.IPPROTO_ICMPV6, 128
		}
	}
	return IP(p.From, p.To, protocol, 64, append(body, payload...), sumAt)
}

// IP puts an IP header before a body, and the checksum of the transport into it at sumAt.
func IP(from, to netip.Addr, protocol, ttl byte, body []byte, sumAt int) []byte {
	body = bytes.Clone(body)
	var sum uint32
	if protocol != unix.IPPROTO_ICMP { // which alone has no pseudo-header
		sum = add(add(0, from.AsSlice()), to.AsSlice()) + uint32(protocol) + uint32(len(body))
	}
	binary.BigEndian.PutUint16(body[sumAt:], fold(add(sum, body)))
	if to.Is6() {
		h := []byte{6 << 4, 0, 0, 0, byte(len(body) >> 8), byte(len(body)), protocol, ttl}
		h = append(append(h, from.AsSlice()...), to.AsSlice()...)
		return append(h, body...)
	}
	const version4, length = 4 << 4, 20
	h := []byte{version4 | length/4, 0, byte((length + len(body)) >> 8), byte(length + len(body)), 0, 0, 0, 0, ttl, protocol, 0, 0}
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], fold(add(0, h)))
	return append(h, body...)
}

// add and fold are the checksum of RFC 1071.
func add(sum uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
