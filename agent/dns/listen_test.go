package dns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// listening makes a server that runs at an address of the loopback.
func listening(t *testing.T, at string, change func(*Options)) (*Server, netip.AddrPort) {
	t.Helper()
	port := freePort(t)
	listen := netip.AddrPortFrom(addr(at), port)
	s := newServer(t, func(o *Options) {
		o.Port, o.Listen = port, []netip.AddrPort{listen}
		if change != nil {
			change(o)
		}
	})
	s.SetBlocks(prefixes("10.64.0.64/26"), nil)
	s.run(t)
	return s, listen
}

func TestListenerFollowsSettings(t *testing.T) {
	s, first := listening(t, "127.0.0.1", nil)
	s.await(t)
	second := netip.AddrPortFrom(addr("127.0.0.2"), first.Port())
	asked := func(at netip.AddrPort, network string) error {
		c := &dns.Client{Net: network, Timeout: time.Second}
		r, _, err := c.Exchange(question("r1h1.fabric.internal.", "SOA"), at.String())
		if err == nil && r.Rcode != dns.RcodeSuccess {
			err = fmt.Errorf("%v", r)
		}
		return err
	}
	both := func(at netip.AddrPort) error {
		if err := asked(at, "udp"); err != nil {
			return err
		}
		return asked(at, "tcp")
	}
	if err := both(first); err != nil {
		t.Error(err)
	}
	next := settings()
	next.Listen = []netip.AddrPort{second}
	s.Set(next)
	nstest.Eventually(t, 5*time.Second, func() error { return both(second) })
	nstest.Eventually(t, 5*time.Second, func() error {
		if asked(first, "udp") == nil || asked(first, "tcp") == nil {
			return fmt.Errorf("%s still answers", first)
		}
		return nil
	})

	// The host's own addresses come with its blocks.
	s.SetBlocks(prefixes("10.64.0.64/26"), addrs("127.0.0.3"))
	third := netip.AddrPortFrom(addr("127.0.0.3"), first.Port())
	nstest.Eventually(t, 5*time.Second, func() error { return both(third) })
	if got, want := fmt.Sprint(s.Status().Listeners), fmt.Sprint([]netip.AddrPort{third, second}); got != want {
		t.Errorf("the status has %s, want %s", got, want)
	}
	next.Enabled = false
	s.Set(next)
	nstest.Eventually(t, 5*time.Second, func() error {
		if asked(second, "udp") == nil || asked(third, "tcp") == nil {
			return fmt.Errorf("it answers, though it is off")
		}
		return nil
	})
}

// TestPortTaken: a port that somebody else has is a problem, and taken when it is free.
func TestPortTaken(t *testing.T) {
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	at := other.LocalAddr().(*net.UDPAddr).AddrPort()
	s := newServer(t, func(o *Options) { o.Listen = []netip.AddrPort{at} })
	s.SetBlocks(prefixes("10.64.0.64/26"), nil)
	s.run(t)
	nstest.Eventually(t, 5*time.Second, func() error {
		if got, want := fmt.Sprint(s.Status().Problems), "another DNS server has it"; !strings.Contains(got, want) {
			return fmt.Errorf("problems %s, want %s", got, want)
		}
		return nil
	})
	other.Close()
	s.change(func(p *place) *place { return p }) // rather than wait
	s.await(t)
	if problems := s.Status().Problems; len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	s.Set(settings())
	if got, want := fmt.Sprint(s.Status().Problems), "DNS is answered nowhere"; !strings.Contains(got, want) {
		t.Errorf("problems %s, want %s", got, want)
	}
}

// TestConnection: many queries on one connection, each answered, in their order.
func TestConnection(t *testing.T) {
	s, at := listening(t, "127.0.0.1", nil)
	s.await(t)
	s.opts.Names.Publish(endpoint("web", "10.64.0.65"))
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	var queries bytes.Buffer
	for i := range 50 {
		m := question("web.r1h1.fabric.internal.", "A")
		m.Id = uint16(i)
		raw, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		queries.Write([]byte{0, byte(len(raw))})
		queries.Write(raw)
	}
	for _, b := range [][]byte{queries.Bytes()[:1], queries.Bytes()[1:40], queries.Bytes()[40:]} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		r, err := conn.ReadMsg()
		if err != nil || r.Id != uint16(i) || len(r.Answer) != 1 {
			t.Fatalf("answer %d: %v, %v", i, r, err)
		}
	}
	// What is no query ends it.
	if _, err := c.Write([]byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("after a message that is too long: %v, want the end", err)
	}
}

// TestConnectionsAreBounded: who opens all it can leaves room for others, and has it taken back.
func TestConnectionsAreBounded(t *testing.T) {
	s, at := listening(t, "127.0.0.1", nil)
	s.await(t)
	var dialed []net.Conn
	for range maxConnections {
		if c, err := net.Dial("tcp4", at.String()); err == nil { // else it was ended at once
			defer c.Close()
			dialed = append(dialed, c)
		}
	}
	nstest.Eventually(t, 5*time.Second, func() error {
		if st := s.Stats(); st.Connections != maxConnections/2 || st.Busy != maxConnections/2 {
			return fmt.Errorf("%d served, %d not", st.Connections, st.Busy)
		}
		return nil
	})
	for _, c := range dialed {
		c.Close()
	}
	nstest.Eventually(t, 5*time.Second, func() error {
		if n := s.Stats().Connections; n != 0 {
			return fmt.Errorf("%d are served", n)
		}
		return nil
	})
}

// TestSlowMessage: a message that does not come to its end holds its connection for a short time only.
func TestSlowMessage(t *testing.T) {
	for _, sent := range []struct {
		message []byte
		lasts   time.Duration
	}{{nil, idleTime}, {[]byte{0}, messageTime}, {[]byte{0, 30, 1, 2}, messageTime}} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			begun := time.Now()
			go func() { _, _ = theirs.Write(sent.message) }()
			if _, err := readMessage(ours); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != sent.lasts {
				t.Errorf("%d bytes: %v after %s, want %s", len(sent.message), err, time.Since(begun), sent.lasts)
			}
		})
	}
}
