package unnumbered

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// kind is what a packet is, of those that matter here.
type kind int

const (
	routerAdvertisement kind = iota
	routerSolicitation
	neighborAdvertisement
	echoReply
)

// packet is one that was received.
type packet struct {
	from netip.Addr // link-local, without zone
	kind kind
}

// wire sends and receives on one link.
type wire interface {
	// receive waits for the next packet that matters. It fails when the wire is closed.
	receive() (packet, error)
	// advertise sends a router advertisement to all nodes.
	advertise() error
	// solicit asks all routers to advertise themselves, and to answer.
	solicit() error
	// probe asks whether an address is there.
	probe(netip.Addr) error
	// stale reports whether the interface is another one by now.
	stale() bool
	close() error
}

// hopLimit is what Neighbor Discovery must have (RFC 4861 section 11.2): nobody sent it from afar.
const hopLimit = 255

// maxPacket is Ethernet's longest frame; an advertisement is far shorter.
const maxPacket = 1500

// socket is a wire over a raw ICMPv6 socket, bound to the interface's link-local address.
type socket struct {
	ifi    *net.Interface
	conn   net.PacketConn
	pc     *ipv6.PacketConn
	echo   uint16 // identifies our echo requests
	within func(func() error) error
}

// openSocket fails while the interface is not there, is down, or has no link-local address that may be used yet (RFC 4862).
// within runs its argument in the interface's network namespace, where this is called too.
func openSocket(link string, within func(func() error) error) (wire, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err // it names the interface
	}
	if ifi.Flags&net.FlagRunning == 0 {
		return nil, fmt.Errorf("%s is down", link)
	}
	local, err := linkLocalOf(ifi)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, fmt.Errorf("ICMPv6 socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "icmp6")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: local.As16(), ZoneId: uint32(ifi.Index)}); err != nil {
		return nil, fmt.Errorf("bind to %s on %s: %w", local, link, err)
	}
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("ICMPv6 socket: %w", err)
	}
	s := &socket{ifi: ifi, conn: conn, pc: ipv6.NewPacketConn(conn), echo: uint16(os.Getpid()), within: within}
	if err := s.setup(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up ICMPv6 socket on %s: %w", link, err)
	}
	return s, nil
}

func linkLocalOf(ifi *net.Interface) (netip.Addr, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr().WithZone(""), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no link-local address", ifi.Name)
}

func (s *socket) setup() error {
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	for _, t := range []ipv6.ICMPType{
		ipv6.ICMPTypeRouterAdvertisement, ipv6.ICMPTypeRouterSolicitation, ipv6.ICMPTypeNeighborAdvertisement, ipv6.ICMPTypeEchoReply,
	} {
		filter.Accept(t)
	}
	return errors.Join(
		s.pc.SetICMPFilter(&filter), s.pc.SetHopLimit(hopLimit), s.pc.SetMulticastHopLimit(hopLimit),
		s.pc.SetMulticastInterface(s.ifi), s.pc.SetMulticastLoopback(false), s.pc.SetControlMessage(ipv6.FlagHopLimit, true),
		s.pc.JoinGroup(s.ifi, udp(allNodes)), s.pc.JoinGroup(s.ifi, udp(allRouters)),
	)
}

func udp(a netip.Addr) net.Addr { return &net.UDPAddr{IP: a.AsSlice()} }

func (s *socket) receive() (packet, error) {
	buf := make([]byte, maxPacket)
	for {
		n, cm, src, err := s.pc.ReadFrom(buf)
		if err != nil {
			return packet{}, err
		}
		ip, ok := src.(*net.IPAddr)
		if !ok || cm == nil {
			continue
		}
		from, _ := netip.AddrFromSlice(ip.IP)
		if p, ok := parse(buf[:n], from, cm.HopLimit, s.echo); ok {
			return p, nil
		}
	}
}

// parse reads what matters of a packet. The kernel has checked its checksum.
func parse(b []byte, from netip.Addr, hops int, echo uint16) (packet, bool) {
	if !from.Is6() || !from.IsLinkLocalUnicast() && !from.IsUnspecified() || len(b) < 8 {
		return packet{}, false
	}
	p := packet{from: from}
	if ipv6.ICMPType(b[0]) == ipv6.ICMPTypeEchoReply {
		p.kind = echoReply
		return p, uint16(b[4])<<8|uint16(b[5]) == echo && !from.IsUnspecified()
	}
	if hops != hopLimit {
		return packet{}, false
	}
	m, err := ndp.ParseMessage(b)
	if err != nil {
		return packet{}, false
	}
	switch m.(type) {
	case *ndp.RouterAdvertisement:
		p.kind = routerAdvertisement
	case *ndp.RouterSolicitation:
		p.kind = routerSolicitation
		return p, true // before it has an address, too
	case *ndp.NeighborAdvertisement:
		p.kind = neighborAdvertisement
	default:
		return packet{}, false
	}
	return p, !from.IsUnspecified()
}

// source is the option that spares the receiver a question for our address. A link without such addresses has none.
func (s *socket) source() []ndp.Option {
	if len(s.ifi.HardwareAddr) != 6 {
		return nil
	}
	return []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: s.ifi.HardwareAddr}}
}

// advertise says that we are there, and no default router: our lifetime as one is 0.
func (s *socket) advertise() error {
	return s.send(&ndp.RouterAdvertisement{Options: s.source()}, allNodes)
}

func (s *socket) solicit() error {
	request := []byte{128, 0, 0, 0, byte(s.echo >> 8), byte(s.echo), 0, 1} // the kernel writes the checksum
	return errors.Join(s.send(&ndp.RouterSolicitation{Options: s.source()}, allRouters), s.write(request, allRouters))
}

func (s *socket) probe(a netip.Addr) error {
	group, err := ndp.SolicitedNodeMulticast(a)
	if err != nil {
		return err
	}
	return s.send(&ndp.NeighborSolicitation{TargetAddress: a, Options: s.source()}, group)
}

func (s *socket) send(m ndp.Message, to netip.Addr) error {
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		return err
	}
	return s.write(b, to)
}

// writeTimeout bounds a send on a link whose queue does not move.
const writeTimeout = 100 * time.Millisecond

func (s *socket) write(b []byte, to netip.Addr) error {
	if err := s.pc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := s.pc.WriteTo(b, nil, &net.IPAddr{IP: to.AsSlice()})
	return err
}

func (s *socket) stale() bool {
	return s.within(func() error {
		now, err := net.InterfaceByName(s.ifi.Name)
		if err == nil && now.Index != s.ifi.Index {
			err = errStale
		}
		return err
	}) != nil
}

func (s *socket) close() error { return s.conn.Close() }
