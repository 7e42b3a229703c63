package firewall_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/spoof"
)

// TestHonestTraffic has a container do what containers do. Everything passes, and nothing is counted.
func TestHonestTraffic(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true, Closed: []firewall.Port{{Protocol: firewall.TCP, Number: 179}}})
	open := sink(t)
	inside, outside := open(spoof.OnLink(r.other, "eth0")), open(spoof.OnLink(r.tor, "host"))

	for _, to := range []netip.Addr{other4, other6, host4, host6, www4, www6} {
		ns := map[netip.Addr]netns.NS{other4: r.other, other6: r.other, www4: r.tor, www6: r.tor}[to]
		if !ns.Exists() || ns.Name == "" {
			ns = r.host
		}
		t.Run(fmt.Sprintf("UDP, in fragments and whole, to %s", to), func(t *testing.T) {
			for _, size := range []int{1, 1400, 9000} {
				echoed(t, r.box, ns, to, size)
			}
		})
		t.Run(fmt.Sprintf("TCP to %s", to), func(t *testing.T) { connected(t, r.box, ns, to) })
	}
	t.Run("groups", func(t *testing.T) { // IGMP from its own address, MLD from the link's
		for _, group := range []string{"239.1.2.3", "ff05::123"} {
			if err := r.box.Do(func() error {
				link, err := net.InterfaceByName("eth0")
				if err != nil {
					return err
				}
				conn, err := net.ListenMulticastUDP("udp", link, &net.UDPAddr{IP: net.ParseIP(group), Port: 9999})
				if err == nil {
					conn.Close()
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("errors about the path's MTU", func(t *testing.T) {
		l := link(t, r.box)
		for i, p := range []spoof.Packet{{From: box4, To: other4}, {From: box6, To: other6}, {From: box4, To: www4}, {From: box6, To: www6}} {
			p.Kind, p.Number = spoof.UDP, uint32(i+1)
			about := spoof.Packet{Kind: spoof.UDP, From: p.To, To: p.From, Number: p.Number}.Bytes()
			body, protocol := append([]byte{3, 4, 0, 0, 0, 0, 5, 20}, about...), byte(unix.IPPROTO_ICMP) // RFC 1191: fragmentation needed, 1300
			if p.To.Is6() {
				body, protocol = append([]byte{2, 0, 0, 0, 0, 0, 5, 20}, about...), unix.IPPROTO_ICMPV6 // RFC 8201: packet too big
			}
			if err := l.SendIP(endpoint.HostMAC(), spoof.IP(p.From, p.To, protocol, 64, body, 2)); err != nil {
				t.Fatal(err)
			}
			at := inside
			if i >= 2 {
				at = outside
			}
			nstest.Eventually(t, patience, func() error {
				if !at.Saw(p) {
					return fmt.Errorf("none about %s", p)
				}
				return nil
			})
		}
	})
	t.Run("asking who has an address before it has one", func(t *testing.T) { // DHCP and IGMP from 0.0.0.0
		l := link(t, r.box)
		for i, to := range []string{"255.255.255.255", "224.0.0.22"} {
			p := spoof.Packet{Kind: spoof.UDP, From: netip.IPv4Unspecified(), To: netip.MustParseAddr(to), Port: 67, Number: uint32(100 + i)}
			if err := l.SendPacket(endpoint.HostMAC(), p); err != nil {
				t.Fatal(err)
			}
		}
	})
	// By now it has its link-local address, by duplicate address detection from ::.
	nstest.Eventually(t, patience, func() error {
		out := ip(t, r.box, "-6 address show dev eth0 scope link")
		if !strings.Contains(out, "fe80::") || strings.Contains(out, "tentative") || strings.Contains(out, "dadfailed") {
			return errors.New(out)
		}
		return nil
	})
	if got := r.dropped(t); got != (firewall.Dropped{}) {
		t.Errorf("honest traffic was counted: %+v", got)
	}
}

// echoed sends a datagram and wants it back.
func echoed(t *testing.T, from, to netns.NS, addr netip.Addr, size int) {
	t.Helper()
	var server, client *net.UDPConn
	err := to.Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	err = from.Do(func() (err error) {
		client, err = net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deadline := time.Now().Add(patience)
	if err := errors.Join(server.SetDeadline(deadline), client.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	sent, got := bytes.Repeat([]byte{42}, size), make([]byte, 65536)
	if _, err := client.Write(sent); err != nil {
		t.Fatal(err)
	}
	n, peer, err := server.ReadFromUDPAddrPort(got)
	if err == nil {
		_, err = server.WriteToUDPAddrPort(got[:n], peer)
	}
	if err == nil {
		n, err = client.Read(got)
	}
	if err != nil || !bytes.Equal(got[:n], sent) {
		t.Errorf("%d bytes to %s: %d came back: %v", size, addr, n, err)
	}
}

// connected opens a connection and sends a word each way.
func connected(t *testing.T, from, to netns.NS, addr netip.Addr) {
	t.Helper()
	l := listen(t, to, netip.AddrPortFrom(addr, 0))
	conn, err := dial(from, l.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if err := binary.Write(conn, binary.BigEndian, uint32(7)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(got); err != nil || got[3] != 7 {
		t.Errorf("%v came back: %v", got, err)
	}
}

// listen has every connection's first bytes sent back.
func listen(t *testing.T, ns netns.NS, at netip.AddrPort) net.Listener {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			buf := make([]byte, 64)
			if n, err := c.Read(buf); err == nil {
				_, _ = c.Write(buf[:n]) // the client tells
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

func dial(ns netns.NS, addr string, timeout time.Duration) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		conn, err = net.DialTimeout("tcp", addr, timeout)
		return err
	})
	return conn, err
}
