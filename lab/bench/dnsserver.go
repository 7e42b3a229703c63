package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// named is a name with the addresses that are to be answered.
type named struct {
	name      string // with the last dot
	addresses []netip.Addr
}

// dnsServer is one side.
type dnsServer struct {
	name    string
	at      netip.AddrPort
	pid     int
	rates   []float64 // answers a second, by round
	cpu     []float64 // us of processor an answer, by round
	took    []float64 // ms, of each answer at steady rate
	answers tally
}

// verify asks a server for every name, and wants its addresses and no others.
func (s *dnsServer) verify(ctx context.Context, ns netns.NS, names []named) error {
	return ns.Do(func() error {
		udp, err := (&net.Dialer{}).DialContext(ctx, "udp", s.at.String())
		if err != nil {
			return err
		}
		conn := &dns.Conn{Conn: udp}
		defer conn.Close()
		for _, n := range names {
			if err := verifyName(conn, n); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		return nil
	})
}

func verifyName(conn *dns.Conn, n named) error {
	var got []netip.Addr
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		query := new(dns.Msg).SetQuestion(n.name, kind)
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if err := conn.WriteMsg(query); err != nil {
			return fmt.Errorf("ask for %s: %w", n.name, err)
		}
		answer, err := conn.ReadMsg()
		if err != nil {
			return fmt.Errorf("ask for %s: %w", n.name, err)
		}
		for _, rr := range answer.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				a, _ := netip.AddrFromSlice(rr.A.To4())
				got = append(got, a)
			case *dns.AAAA:
				a, _ := netip.AddrFromSlice(rr.AAAA)
				got = append(got, a)
			}
		}
	}
	if !slices.Equal(got, n.addresses) {
		return fmt.Errorf("%s has %v, want %v", n.name, got, n.addresses)
	}
	return nil
}
