package rtnl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Error is the kernel's refusal of one request.
type Error struct {
	Errno unix.Errno
	Text  string // the kernel's own words, may be empty
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return fmt.Sprintf("%v (%s)", e.Errno, e.Text)
}

func (e *Error) Unwrap() error { return e.Errno }

// Message is one netlink message; the payload is valid until the next read.
type Message struct {
	Type, Flags uint16
	Seq, Port   uint32
	Payload     []byte
}

// Messages calls fn for each message in b. Truncated input ends it.
func Messages(b []byte, fn func(Message)) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return
		}
		fn(Message{
			Type:    binary.NativeEndian.Uint16(b[4:]),
			Flags:   binary.NativeEndian.Uint16(b[6:]),
			Seq:     binary.NativeEndian.Uint32(b[8:]),
			Port:    binary.NativeEndian.Uint32(b[12:]),
			Payload: b[unix.SizeofNlMsghdr:size],
		})
		b = b[min(align(size), len(b)):]
	}
}

// Attributes calls fn for each attribute in b, with the nesting flags removed from the type. Truncated input ends it.
func Attributes(b []byte, fn func(typ uint16, v []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[unix.SizeofRtAttr:size])
		b = b[min(align(size), len(b)):]
	}
}

// Uint32 reads an attribute of four bytes in host order; anything else is 0.
func Uint32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// Addr reads an address of 4 or 16 bytes; anything else is the zero Addr.
func Addr(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}

// CString reads a zero-terminated string.
func CString(v []byte) string {
	s, _, _ := bytes.Cut(v, []byte{0})
	return string(s)
}

// refusal reads the payload of an NLMSG_ERROR or NLMSG_DONE; nil is an acknowledgement.
func refusal(m Message) error {
	if len(m.Payload) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Payload))
	if code == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	rest := m.Payload[4:]
	if m.Type == unix.NLMSG_ERROR {
		// With NETLINK_CAP_ACK only the header of the request is repeated before the attributes.
		rest = rest[min(unix.SizeofNlMsghdr, len(rest)):]
	}
	if m.Flags&unix.NLM_F_ACK_TLVS != 0 {
		Attributes(rest, func(typ uint16, v []byte) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				e.Text = CString(v)
			}
		})
	}
	return e
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
