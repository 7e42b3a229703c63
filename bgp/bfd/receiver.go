package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	controlPort = 3784 // RFC 5881, section 4
	fullTTL     = 255  // RFC 5881, section 5
	// unknownIndex is an interface that no session is on.
	unknownIndex = -2
	// receiveBuffer holds what comes in while the process waits for a processor.
	receiveBuffer = 1 << 20
)

// receiver is the socket that takes the packets of all sessions of one family. It calls recvmsg itself, because it may not
// allocate for a packet: golang.org/x/net/ipv4 and ipv6 give every one a new source address and control message.
type receiver struct {
	fd   int
	ipv6 bool
	hdr  unix.Msghdr
	iov  unix.Iovec
	name unix.RawSockaddrInet6 // the larger of the two
	buf  [256]byte             // more than the length field can say
	oob  [128]byte
}

// arrival is where a datagram came from.
type arrival struct {
	from    netip.Addr // without zone
	ifindex int
	ttl     int
	data    []byte // until the next call
}

func openReceiver(ipv6 bool) (*receiver, error) {
	family, name := unix.AF_INET, "IPv4"
	if ipv6 {
		family, name = unix.AF_INET6, "IPv6"
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s socket: %w", name, err)
	}
	if err := setUpReceiver(fd, ipv6); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("%s port %d is taken by another program: stop its BFD (bfdd, bird): %w", name, controlPort, err)
		}
		return nil, fmt.Errorf("%s port %d: %w", name, controlPort, err)
	}
	return newReceiver(fd, ipv6), nil
}

func setUpReceiver(fd int, ipv6 bool) error {
	set := func(level, option, value int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
	}
	if err := set(unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
		return err
	}
	if !ipv6 {
		return errors.Join(set(unix.IPPROTO_IP, unix.IP_RECVTTL, 1), set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: controlPort}))
	}
	return errors.Join(set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1), set(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1),
		set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1), unix.Bind(fd, &unix.SockaddrInet6{Port: controlPort}))
}

// newReceiver takes over a socket that openReceiver has made.
func newReceiver(fd int, ipv6 bool) *receiver {
	r := &receiver{fd: fd, ipv6: ipv6}
	r.iov.Base = &r.buf[0]
	r.iov.SetLen(len(r.buf))
	r.hdr.Iov, r.hdr.Name, r.hdr.Control = &r.iov, (*byte)(unsafe.Pointer(&r.name)), &r.oob[0]
	r.hdr.SetIovlen(1)
	return r
}

// next takes a datagram out of the socket; false: none waits. What is no datagram of ours has no data.
func (r *receiver) next(a *arrival) bool {
	r.hdr.Namelen = unix.SizeofSockaddrInet6
	r.hdr.SetControllen(len(r.oob))
	r.hdr.Flags = 0
	// Raw: it never blocks, and giving up the scheduler's slot for it could mean waiting to get one back.
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&r.hdr)), unix.MSG_DONTWAIT)
	*a = arrival{ifindex: unknownIndex, ttl: -1}
	if errno != 0 {
		return errno == unix.EINTR
	}
	if r.ipv6 {
		a.from = netip.AddrFrom16(r.name.Addr)
	} else {
		a.from = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&r.name)).Addr)
	}
	a.data = r.buf[:n]
	for rest := r.oob[:r.hdr.Controllen]; len(rest) >= unix.SizeofCmsghdr; {
		hdr, data, remainder, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			break
		}
		a.control(hdr, data)
		rest = remainder
	}
	return true
}

func (a *arrival) control(hdr unix.Cmsghdr, data []byte) {
	switch {
	case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_TTL && len(data) >= 4,
		hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
		a.ttl = int(binary.NativeEndian.Uint32(data))
	case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		a.ifindex = int(binary.NativeEndian.Uint32(data))
	case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		a.ifindex = int(binary.NativeEndian.Uint32(data[16:]))
	}
}
