package bfd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

const (
	firstSourcePort = 49152 // RFC 5881, section 4
	lastSourcePort  = 65535
	// trafficClass is CS6, network control (RFC 4594): congestion behind us must not look like a dead path.
	trafficClass = 0xc0
)

// openSender makes the socket that one session sends from: bound to its interface, with a source port of its own that
// stays the same, and connected to the peer. Port 0 has one chosen.
func openSender(s Session, ifindex int, port uint16) (fd int, source uint16, err error) {
	family := unix.AF_INET
	if s.Peer.Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, port, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	if err := setUpSender(fd, s); err != nil {
		return fd, port, err
	}
	if port, err = bindSource(fd, s, ifindex, port); err != nil {
		return fd, port, err
	}
	if err := unix.Connect(fd, sockaddr(s.Peer.AsSlice(), controlPort, ifindex)); err != nil {
		return fd, port, fmt.Errorf("no route to %s: %w", s.Peer, err)
	}
	return fd, port, nil
}

func setUpSender(fd int, s Session) error {
	if s.Interface != "" {
		if err := unix.BindToDevice(fd, s.Interface); err != nil {
			return fmt.Errorf("bind to interface %s: %w", s.Interface, err)
		}
	}
	level, ttl, class := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_TOS
	if s.Peer.Is6() {
		level, ttl, class = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_TCLASS
	}
	if err := unix.SetsockoptInt(fd, level, ttl, fullTTL); err != nil {
		return os.NewSyscallError("set TTL", err)
	}
	return os.NewSyscallError("set traffic class", unix.SetsockoptInt(fd, level, class, trafficClass))
}

func bindSource(fd int, s Session, ifindex int, port uint16) (uint16, error) {
	local := s.Local.AsSlice()
	if local == nil {
		local = make([]byte, s.Peer.BitLen()/8)
	}
	bind := func(port uint16) error {
		err := unix.Bind(fd, sockaddr(local, int(port), ifindex))
		if err == nil {
			return nil
		}
		return fmt.Errorf("bind to %s port %d: %w", s.Local, port, err)
	}
	if port != 0 {
		return port, bind(port)
	}
	const tries = 100
	var err error
	for range tries {
		port = firstSourcePort + uint16(rand.UintN(lastSourcePort-firstSourcePort+1))
		if err = bind(port); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	return port, nil
}

// sockaddr gives a link-local address its scope.
func sockaddr(addr []byte, port, ifindex int) unix.Sockaddr {
	if len(addr) == 4 {
		return &unix.SockaddrInet4{Port: port, Addr: [4]byte(addr)}
	}
	sa := &unix.SockaddrInet6{Port: port, Addr: [16]byte(addr)}
	if addr[0] == 0xfe && addr[1]&0xc0 == 0x80 {
		sa.ZoneId = uint32(ifindex)
	}
	return sa
}
