package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Why a server's reply is no answer.
var (
	errMismatch = errors.New("its reply is to another question")
	errRefused  = errors.New("it refuses to answer")
)

// exchange asks a server, by TCP what does not fit into a datagram. from is the source address; the zero one leaves it to the kernel. Every question has a socket of its own, so that its port is a random
// one, and so is its ID: who has not seen it cannot answer it.
func exchange(ctx context.Context, from netip.Addr, server netip.AddrPort, m *dns.Msg, patience time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.Id = dns.Id()
	reply, err := exchangeBy(ctx, "udp", from, server, m)
	if err == nil && reply.Truncated {
		m.Id = dns.Id()
		reply, err = exchangeBy(ctx, "tcp", from, server, m)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", server, plain(err))
	}
	return reply, nil
}

func exchangeBy(ctx context.Context, network string, from netip.Addr, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	var d net.Dialer
	if from.IsValid() {
		d.LocalAddr = localAddr(network, from)
	}
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := &dns.Conn{Conn: c, UDPSize: dns.DefaultMsgSize} // some send more than they were asked to
	if err := conn.WriteMsg(m); err != nil {
		return nil, err
	}
	for {
		raw, err := conn.ReadMsgHeader(nil)
		if err != nil && !errors.Is(err, dns.ErrShortRead) {
			return nil, err
		}
		reply, err := matching(raw, m)
		if err == nil || network == "tcp" {
			return reply, err
		}
		// Over UDP it may be anybody's, and the answer still under way.
	}
}

func localAddr(network string, a netip.Addr) net.Addr {
	if network == "tcp" {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
}

// matching understands raw as the reply to m.
func matching(raw []byte, m *dns.Msg) (*dns.Msg, error) {
	var r dns.Msg
	if err := r.Unpack(raw); err != nil {
		return nil, fmt.Errorf("its reply is malformed: %w", err)
	}
	if err := sound(&r); err != nil {
		return nil, fmt.Errorf("its reply is malformed: %w", err)
	}
	asked := m.Question[0]
	if !r.Response || r.Id != m.Id || r.Opcode != m.Opcode {
		return nil, errMismatch
	}
	if len(r.Question) != 1 {
		// Some leave it out where they refuse.
		if len(r.Question) == 0 && r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError {
			return &r, nil
		}
		return nil, errMismatch
	}
	got := r.Question[0]
	if got.Qtype != asked.Qtype || got.Qclass != asked.Qclass || !strings.EqualFold(got.Name, asked.Name) {
		return nil, errMismatch
	}
	return &r, nil
}

// sound tells whether what was understood can be told to others: the library reads records that end too early, and writes them so that nobody can
// read them.
func sound(m *dns.Msg) error {
	raw, err := m.Pack()
	if err != nil {
		return err
	}
	return new(dns.Msg).Unpack(raw)
}

// plain leaves out of an error what whoever reads it knows: the addresses, and that it was a read.
func plain(err error) error {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("no answer in time")
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
