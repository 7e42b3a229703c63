package dns

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// tryFor is how long one host is waited for before the next one is asked: they are a few links away and answer from memory.
const tryFor = 300 * time.Millisecond

// rounds is how often each of them is asked, for a packet may be lost.
const rounds = 2

// relay asks another host for what is its own. It is asked without RD, and relays nothing that it is asked so: a query crosses the fabric
// once, whatever the hosts believe of one another.
func (s *Server) relay(ctx context.Context, q *query, t topic) {
	q.kind = Other
	var servers []netip.Addr
	var err error
	if t.subject == otherName {
		servers, err = s.opts.Directory.Host(t.rest)
	} else {
		servers, err = s.opts.Directory.Address(t.region.Addr())
	}
	switch {
	case errors.Is(err, ErrUnknown):
		q.unknown(t)
		return
	case err != nil:
		q.fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, q.place.Timeout)
	defer cancel()
	var errs []string
	for round := 0; round < rounds && ctx.Err() == nil; round++ {
		errs = errs[:0]
		again := false
		for _, server := range servers {
			err := s.askHost(ctx, q, netip.AddrPortFrom(server, s.opts.Port))
			if err == nil {
				return
			}
			errs = append(errs, err.Error())
			again = again || !errors.Is(err, errRefused)
		}
		if !again {
			break
		}
	}
	q.fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, strings.Join(errs, "; "))
}

// unknown is the answer for a host or an address that the fabric does not have.
func (q *query) unknown(t topic) {
	zone := q.place.parent
	if t.subject == otherAddress {
		zone = reverseName(apex(holder(q.place.Fabric, t.region.Addr(), t.region.Bits()), t.region.Addr()))
	}
	q.reply.Rcode = dns.RcodeNameError
	q.reply.Ns = []dns.RR{q.soa(zone)}
}

// askHost takes from a host's reply what is an answer to q.
func (s *Server) askHost(ctx context.Context, q *query, server netip.AddrPort) error {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeQuery}, Question: []dns.Question{{Name: q.name, Qtype: q.Qtype, Qclass: q.Qclass}}}
	m.SetEdns0(udpSize, false)
	r, err := exchange(ctx, q.place.source(server.Addr()), server, m, tryFor)
	if err != nil {
		return err
	}
	return q.adopt(r, server)
}

// adopt keeps to what the host that was asked can say: records of this name, and of the zone around it that there is none.
func (q *query) adopt(r *dns.Msg, server netip.AddrPort) error {
	if r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError || !r.Authoritative {
		return &hostError{server, r.Rcode}
	}
	var answer, ns []dns.RR
	for _, rr := range r.Answer {
		h := rr.Header()
		if !strings.EqualFold(h.Name, q.Name) || h.Class != dns.ClassINET || h.Rrtype != q.Qtype && q.Qtype != dns.TypeANY {
			continue
		}
		h.Name, h.Ttl = q.Name, 0
		answer = append(answer, rr)
	}
	for _, rr := range r.Ns {
		if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, q.name) {
			soa.Hdr.Ttl, soa.Minttl = 0, 0
			ns = append(ns, soa)
		}
	}
	q.reply.Rcode, q.reply.Answer, q.reply.Ns = r.Rcode, answer, ns
	return nil
}

// hostError is that a host has no answer.
type hostError struct {
	server netip.AddrPort
	rcode  int
}

func (e *hostError) Error() string {
	if e.rcode == dns.RcodeSuccess || e.rcode == dns.RcodeNameError {
		return e.server.String() + ": it does not answer for this name"
	}
	return e.server.String() + ": it answers " + dns.RcodeToString[e.rcode]
}

// Unwrap tells a host that is not the one from one that cannot say at the moment.
func (e *hostError) Unwrap() error {
	if e.rcode == dns.RcodeServerFailure {
		return nil
	}
	return errRefused
}
