// Package hostile is a BGP speaker that means harm: it opens sessions as any other and then sends whatever bytes it is given.
// It knows the protocol as far as bytes, and shares no code with the speakers it attacks.
package hostile

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Message types of RFC 4271 section 4.1 and RFC 2918.
const (
	Open         byte = 1
	Update       byte = 2
	Notification byte = 3
	Keepalive    byte = 4
	Refresh      byte = 5
)

// headerLen is the length of a message without a body.
const headerLen = 19

// maxLen is the longest message of RFC 4271.
const maxLen = 4096

// Flags of path attributes, RFC 4271 section 4.3.
const (
	optional   byte = 0x80
	transitive byte = 0x40
	partial    byte = 0x20
	extended   byte = 0x10
)

// Types of path attributes.
const (
	origin          byte = 1
	asPath          byte = 2
	nextHop         byte = 3
	med             byte = 4
	localPref       byte = 5
	atomicAggregate byte = 6
	aggregator      byte = 7
	community       byte = 8
	originator      byte = 9
	clusterList     byte = 10
	mpReach         byte = 14
	mpUnreach       byte = 15
	extCommunity    byte = 16
	as4Path         byte = 17
	as4Aggregator   byte = 18
	tunnelEncap     byte = 23
	aigp            byte = 26
	largeCommunity  byte = 32
	prefixSID       byte = 40
	unknownOptional byte = 250
)

// Message puts the header of RFC 4271 before a body.
func Message(kind byte, body ...byte) []byte {
	return raw(marker(), uint16(headerLen+len(body)), kind, body)
}

func marker() []byte { return bytes.Repeat([]byte{0xff}, 16) }

// raw makes a message of any header.
func raw(mark []byte, length uint16, kind byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint16(bytes.Clone(mark), length)
	return append(append(out, kind), body...)
}

// update makes an UPDATE of its three parts.
func update(withdrawn, attributes, nlri []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attributes)))
	return Message(Update, join(body, attributes, nlri)...)
}

// attribute makes a path attribute, with a length of two octets where it needs them.
func attribute(flags, kind byte, value ...byte) []byte {
	if len(value) > 255 || flags&extended != 0 {
		out := binary.BigEndian.AppendUint16([]byte{flags | extended, kind}, uint16(len(value)))
		return append(out, value...)
	}
	return append([]byte{flags, kind, byte(len(value))}, value...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// prefix encodes NLRI.
func prefix(s string) []byte {
	p := netip.MustParsePrefix(s)
	return append([]byte{byte(p.Bits())}, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
}

// EndOfRIB is the marker of RFC 4724 section 2 for IPv4 unicast.
func EndOfRIB() []byte { return update(nil, nil, nil) }
