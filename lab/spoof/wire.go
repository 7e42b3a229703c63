package spoof

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// Link sends frames on a container's link, past its kernel.
type Link struct {
	MAC  net.HardwareAddr // the link's own
	fd   int
	addr unix.SockaddrLinklayer
}

// OpenLink opens a link of a namespace.
func OpenLink(ns netns.NS, name string) (*Link, error) {
	l := &Link{}
	err := ns.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		l.MAC, l.addr.Ifindex = i.HardwareAddr, i.Index
		l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s in namespace %s: %w", name, ns.Name, err)
	}
	return l, nil
}

// Close closes the link's socket.
func (l *Link) Close() error { return unix.Close(l.fd) }

// Send sends a frame of an EtherType.
func (l *Link) Send(to net.HardwareAddr, etherType uint16, body []byte) error {
	frame := append(append([]byte(nil), to...), l.MAC...)
	frame = append(binary.BigEndian.AppendUint16(frame, etherType), body...)
	return unix.Sendto(l.fd, frame, 0, &l.addr)
}

// SendPacket sends a packet to the machine with this MAC address.
func (l *Link) SendPacket(to net.HardwareAddr, p Packet) error {
	return l.SendIP(to, p.Bytes())
}

// SendIP sends a packet of either family.
func (l *Link) SendIP(to net.HardwareAddr, packet []byte) error {
	if packet[0]>>4 == 6 {
		return l.Send(to, unix.ETH_P_IPV6, packet)
	}
	return l.Send(to, unix.ETH_P_IP, packet)
}

// Sink notes the packets of ours that come to a namespace.
type Sink struct {
	files   []*os.File
	readers sync.WaitGroup

	mu      sync.Mutex // guards what follows
	seen    map[uint32]bool
	answers int
}

// OnLink notes what is on a link, whatever the namespace's kernel makes of it, and counts answers of neighbours and routers.
func OnLink(ns netns.NS, link string) (*Sink, error) {
	return newSink(ns, func() ([]*os.File, error) {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return nil, err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		f, err := socket(unix.AF_PACKET, 0, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
		if err != nil {
			return nil, err
		}
		return []*os.File{f}, nil
	})
}

// Delivered notes what a namespace's kernel delivers to the machine itself.
func Delivered(ns netns.NS) (*Sink, error) {
	return newSink(ns, func() (files []*os.File, err error) {
		for _, s := range [][2]int{
			{unix.AF_INET, unix.IPPROTO_UDP}, {unix.AF_INET, unix.IPPROTO_TCP}, {unix.AF_INET, unix.IPPROTO_ICMP},
			{unix.AF_INET6, unix.IPPROTO_UDP}, {unix.AF_INET6, unix.IPPROTO_TCP}, {unix.AF_INET6, unix.IPPROTO_ICMPV6},
		} {
			f, err := socket(s[0], s[1], nil)
			if err != nil {
				return files, err
			}
			files = append(files, f)
		}
		return files, nil
	})
}

// socket is a raw one that the runtime waits for, bound if at is not nil.
func socket(family, protocol int, at unix.Sockaddr) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if at != nil {
		if err := unix.Bind(fd, at); err != nil {
			return nil, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
		}
	}
	return os.NewFile(uintptr(fd), "raw socket"), nil
}

func newSink(ns netns.NS, open func() ([]*os.File, error)) (*Sink, error) {
	s := &Sink{seen: map[uint32]bool{}}
	err := ns.Do(func() (err error) {
		s.files, err = open()
		return err
	})
	for _, f := range s.files {
		s.readers.Go(func() { s.read(f) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen in namespace %s: %w", ns.Name, err), s.Close())
	}
	return s, nil
}

func (s *Sink) read(f *os.File) {
	buf := make([]byte, 65536)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return // closed
		}
		mark, ours := number(buf[:n])
		s.mu.Lock()
		if ours {
			s.seen[mark] = true
		}
		if isAnswer(buf[:n]) {
			s.answers++
		}
		s.mu.Unlock()
	}
}

// Saw reports whether a packet has come.
func (s *Sink) Saw(p Packet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[p.Number]
}

// Answers counts ARP replies and advertisements of Neighbor Discovery, of a sink that is OnLink.
func (s *Sink) Answers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers
}

// Close stops listening.
func (s *Sink) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close()) // which ends a Read
	}
	s.readers.Wait()
	return errors.Join(errs...)
}
