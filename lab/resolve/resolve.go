// Package resolve asks DNS servers from inside network namespaces.
package resolve

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// Patience is for how long an answer is waited for: longer than any server of ours takes.
const Patience = 5 * time.Second

// Client asks one server, one question at a time. It is not safe for concurrent use.
type Client struct {
	client dns.Client
	conn   *dns.Conn
}

// Dial prepares to ask a server's port 53 over UDP, from inside a namespace.
func Dial(from netns.NS, server netip.Addr) (*Client, error) {
	c := &Client{client: dns.Client{Timeout: Patience, UDPSize: dns.DefaultMsgSize}}
	err := from.Do(func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(server, 53).String())
		if err == nil {
			c.conn = &dns.Conn{Conn: conn}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("DNS server %s from namespace %s: %w", server, from.Name, err)
	}
	return c, nil
}

// Close gives the socket back.
func (c *Client) Close() error { return c.conn.Close() }

// Answer is a server's.
type Answer struct {
	Rcode   string
	Data    []string // of the records that were asked for, sorted: addresses, or names in lower case with a dot at the end
	TTLs    []uint32
	Negated bool // a SOA says for how long there is nothing
	Took    time.Duration
}

// String is the code alone where there is no data.
func (a Answer) String() string {
	if len(a.Data) == 0 {
		return a.Rcode
	}
	return a.Rcode + " " + strings.Join(a.Data, " ")
}

// Ask asks once. Kind is such as A; the name of an address is asked for with kind PTR.
func (c *Client) Ask(name, kind string) (Answer, error) {
	qtype, known := dns.StringToType[kind]
	if !known {
		return Answer{}, fmt.Errorf("ask for %s: no type %q", name, kind)
	}
	if addr, err := netip.ParseAddr(name); err == nil && qtype == dns.TypePTR {
		if name, err = dns.ReverseAddr(addr.String()); err != nil {
			return Answer{}, err
		}
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(dns.DefaultMsgSize, false)
	r, took, err := c.client.ExchangeWithConn(m, c.conn)
	if err != nil {
		return Answer{Took: took}, fmt.Errorf("ask %s for %s %s: %w", c.conn.RemoteAddr(), name, kind, err)
	}
	a := Answer{Rcode: dns.RcodeToString[r.Rcode], Took: took}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			a.Data = append(a.Data, rr.A.String())
		case *dns.AAAA:
			a.Data = append(a.Data, rr.AAAA.String())
		case *dns.PTR:
			a.Data = append(a.Data, strings.ToLower(rr.Ptr))
		}
		a.TTLs = append(a.TTLs, rr.Header().Ttl)
	}
	for _, rr := range r.Ns {
		_, soa := rr.(*dns.SOA)
		a.Negated = a.Negated || soa
	}
	slices.Sort(a.Data)
	return a, nil
}
