package dns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// forwarder asks resolvers for what the fabric does not know.
type forwarder struct {
	cache *cache

	mu      sync.Mutex
	flights map[cacheKey]*flight
	silent  map[netip.AddrPort]time.Time // when a resolver did not answer; those are asked last for a while
}

// flight is a question under way, which all wait for that ask the same.
type flight struct {
	landed chan struct{}
	reply  *dns.Msg // afterwards: nil if there is none, and why
	err    error
}

const (
	// avoidFor is for how long a resolver that did not answer is asked last.
	avoidFor = 10 * time.Second
	// manyUpstreams bounds how many are asked one after another.
	manyUpstreams = 4
	// maxPlainRcode is the last one that there is without EDNS.
	maxPlainRcode = 15
)

func newForwarder(entries int) *forwarder {
	return &forwarder{cache: newCache(entries), flights: make(map[cacheKey]*flight), silent: make(map[netip.AddrPort]time.Time)}
}

func (q *query) cacheKey() cacheKey { return cacheKey{q.name, q.Qtype, q.do, q.cd} }

// remembered answers from the cache.
func (s *Server) remembered(q *query) bool {
	m := s.forwarder.cache.get(q.cacheKey(), q.arrived)
	if m == nil {
		s.counters.misses.Add(1)
		return false
	}
	s.counters.hits.Add(1)
	q.take(m)
	return true
}

// forward has a resolver answer.
func (s *Server) forward(ctx context.Context, q *query) {
	key := q.cacheKey()
	f := s.forwarder
	f.mu.Lock()
	fl, flying := f.flights[key]
	if !flying {
		fl = &flight{landed: make(chan struct{})}
		f.flights[key] = fl
	}
	f.mu.Unlock()
	if !flying {
		fl.reply, fl.err = s.resolve(ctx, q)
		f.mu.Lock()
		delete(f.flights, key)
		f.mu.Unlock()
		close(fl.landed)
	}
	wait, cancel := context.WithTimeout(ctx, q.place.Timeout)
	defer cancel()
	select {
	case <-fl.landed:
	case <-wait.Done():
		q.fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, "no resolver has answered in time")
		return
	}
	if fl.err != nil {
		q.fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, fl.err.Error())
		return
	}
	q.take(fl.reply.Copy())
}

// take makes a resolver's reply that of q.
func (q *query) take(m *dns.Msg) {
	q.reply.Rcode, q.reply.AuthenticatedData = m.Rcode, m.AuthenticatedData
	q.reply.Answer, q.reply.Ns, q.reply.Extra = m.Answer, m.Ns, m.Extra
}

// resolve asks the resolvers in turn, and remembers the answer.
func (s *Server) resolve(ctx context.Context, q *query) (*dns.Msg, error) {
	servers := s.forwarder.inOrder(s.upstreams(q.place), q.arrived)
	if len(servers) == 0 {
		return nil, errors.New("the host has no resolver: set dns.upstreams, or nameserver in " + s.resolvers.file)
	}
	servers = servers[:min(len(servers), manyUpstreams)]
	tries := max(len(servers), rounds)
	patience := q.place.Timeout / time.Duration(tries)
	var last *dns.Msg
	var errs []string
	for i := range tries {
		server := servers[i%len(servers)]
		reply, err := s.askResolver(ctx, q, server, patience)
		if err != nil {
			s.forwarder.avoid(server)
			errs = append(errs, err.Error())
			continue
		}
		last = reply
		if reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError {
			break
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // nobody's fault, and nothing to remember
	}
	if last == nil {
		last = &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
		last.Question = []dns.Question{{Name: q.name, Qtype: q.Qtype, Qclass: q.Qclass}}
	}
	s.forwarder.cache.put(q.cacheKey(), last, time.Now())
	if len(errs) == tries {
		return nil, errors.New(strings.Join(errs, "; "))
	}
	return last, nil
}

func (s *Server) askResolver(ctx context.Context, q *query, server netip.AddrPort, patience time.Duration) (*dns.Msg, error) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeQuery, RecursionDesired: true, CheckingDisabled: q.cd}}
	m.Question = []dns.Question{{Name: q.name, Qtype: q.Qtype, Qclass: q.Qclass}}
	m.SetEdns0(udpSize, q.do)
	reply, err := exchange(ctx, netip.Addr{}, server, m, patience)
	if err == nil && reply.IsEdns0() == nil && (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented) {
		m.Extra = nil // it does not know EDNS (RFC 6891 section 6.2.2)
		reply, err = exchange(ctx, netip.Addr{}, server, m, patience)
	}
	if err != nil {
		return nil, err
	}
	if reply.Rcode > maxPlainRcode {
		reply.Rcode = dns.RcodeServerFailure // about EDNS, which is between two neighbours
	}
	reply.Extra = slices.DeleteFunc(reply.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	return reply, nil
}

// avoid remembers that a resolver did not answer.
func (f *forwarder) avoid(server netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.silent) > 4*manyUpstreams {
		clear(f.silent) // of configurations long gone
	}
	f.silent[server] = time.Now()
}

// inOrder puts those that did not answer lately last.
func (f *forwarder) inOrder(servers []netip.AddrPort, now time.Time) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortStableFunc(servers, func(a, b netip.AddrPort) int {
		return f.recent(a, now) - f.recent(b, now)
	})
	return servers
}

func (f *forwarder) recent(server netip.AddrPort, now time.Time) int {
	if now.Sub(f.silent[server]) < avoidFor {
		return 1
	}
	return 0
}
