package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
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

// Message is one netlink message.
type Message struct {
	Type    uint16
	Port    uint32 // of the socket that caused it; 0: the kernel itself
	Payload []byte
}

func message(m syscall.NetlinkMessage) Message {
	return Message{Type: m.Header.Type, Port: m.Header.Pid, Payload: m.Data}
}

// Attributes calls fn for each attribute in b, with the nesting flags removed from the type, up to one that is
// malformed. It allocates nothing, unlike the library's: listings have tens of thousands of messages.
func Attributes(b []byte, fn func(typ uint16, v []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK, b[unix.SizeofRtAttr:size])
		b = b[min((size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
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
func CString(v []byte) string { return unix.ByteSliceToString(v) }

// refusal reads an NLMSG_ERROR or NLMSG_DONE; nil is an acknowledgement.
func refusal(m syscall.NetlinkMessage) error {
	code := int32(Uint32(m.Data))
	if code == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	rest := m.Data[4:]
	if m.Header.Type == unix.NLMSG_ERROR {
		// With NETLINK_CAP_ACK only the header of the request is repeated before the attributes.
		rest = rest[min(unix.SizeofNlMsghdr, len(rest)):]
	}
	Attributes(rest, func(typ uint16, v []byte) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			e.Text = CString(v)
		}
	})
	return e
}
