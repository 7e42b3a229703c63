package spoof

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Broadcast is everybody on a link.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// The operations of ARP.
const (
	Request uint16 = 1
	Reply   uint16 = 2
)

// ARP is the body of a frame of EtherType ETH_P_ARP (RFC 826).
func ARP(operation uint16, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(operation >> 8), byte(operation)}
	b = append(append(b, senderMAC...), sender.AsSlice()...)
	return append(append(b, targetMAC...), target.AsSlice()...)
}

// The kinds of messages of Neighbor Discovery (RFC 4861).
const (
	RouterSolicitation    byte = 133
	RouterAdvertisement   byte = 134
	NeighborSolicitation  byte = 135
	NeighborAdvertisement byte = 136
)

// isAnswer finds ARP replies and advertisements among Ethernet frames.
func isAnswer(frame []byte) bool {
	const etherType, header = 12, 14
	if len(frame) < header {
		return false
	}
	switch body := frame[header:]; binary.BigEndian.Uint16(frame[etherType:]) {
	case unix.ETH_P_ARP:
		const operation = 6
		return len(body) >= operation+2 && binary.BigEndian.Uint16(body[operation:]) == Reply
	case unix.ETH_P_IPV6:
		const next, kind = 6, 40
		return len(body) > kind && body[next] == unix.IPPROTO_ICMPV6 && (body[kind] == NeighborAdvertisement || body[kind] == RouterAdvertisement)
	}
	return false
}

// Discovery is a packet of Neighbor Discovery about target, with the sender's MAC address. Advertisements override what is
// known; target does not matter to the messages about routers.
func Discovery(kind byte, from, to, target netip.Addr, mac net.HardwareAddr) []byte {
	body := []byte{kind, 0, 0, 0}
	const sourceMAC, targetMAC = 1, 2
	option := byte(sourceMAC)
	switch kind {
	case RouterSolicitation:
		body = append(body, 0, 0, 0, 0)
	case RouterAdvertisement:
		body = binary.BigEndian.AppendUint16(append(body, 64, 0), 1800) // seconds
		body = append(body, 0, 0, 0, 0, 0, 0, 0, 0)
	case NeighborAdvertisement:
		const solicited, override = 1 << 6, 1 << 5
		body, option = append(append(body, solicited|override, 0, 0, 0), target.AsSlice()...), targetMAC
	default:
		body = append(append(body, 0, 0, 0, 0), target.AsSlice()...)
	}
	body = append(append(body, option, 1), mac...)
	return IP(from, to, unix.IPPROTO_ICMPV6, 255, body, 2)
}
