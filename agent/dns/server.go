package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Settings are what of a server can be changed while it runs.
type Settings struct {
	Enabled   bool
	Host      string // one label
	Zone      string // that the names of all hosts are in
	Fabric    []netip.Prefix
	Forward   bool
	Upstreams []netip.AddrPort // none: those of ResolvConf
	Listen    []netip.AddrPort // besides the host's own addresses
	Timeout   time.Duration    // for what others have to answer
	Cache     int              // most answers of resolvers that are remembered
	Rate      int              // queries a second of a container; 0: no bound
}

// Options are what a server is made with.
type Options struct {
	Settings
	Names      *Zone
	Ready      <-chan struct{} // closed when Names has the endpoints of an earlier run; nil: it has
	Directory  Directory       // nil: there is no other host
	ResolvConf string          // empty: /etc/resolv.conf
	Port       uint16          // of the servers of all hosts; 0: 53
	Log        *slog.Logger
}

// What may be under way at a time: queries that others have to answer, and connections.
const (
	maxWaiting     = 1024
	maxConnections = 512
)

// othersRate is how much more often than a container another host may ask, for all of its containers.
const othersRate = 16

// Server answers queries. Its methods are safe for concurrent use.
type Server struct {
	opts      Options
	log       *slog.Logger
	place     atomic.Pointer[place]
	synced    atomic.Bool
	counters  counters
	rate      *rate
	waiting   *quota
	conns     *quota
	resolvers *resolvers
	forwarder *forwarder
	changed   chan struct{} // of size 1: the listeners may have to be others

	changing sync.Mutex // one change of the place at a time

	mu        sync.Mutex // guards the field below
	listeners map[netip.AddrPort]*listener
}

// NewServer makes a server that knows of no block yet.
func NewServer(o Options) *Server {
	if o.Port == 0 {
		o.Port = dnsPort
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Directory == nil {
		o.Directory = nobody{}
	}
	s := &Server{
		opts: o, log: o.Log, rate: newRate(), waiting: newQuota(maxWaiting), conns: newQuota(maxConnections),
		resolvers: &resolvers{file: o.ResolvConf}, forwarder: newForwarder(o.Cache), changed: make(chan struct{}, 1),
		listeners: make(map[netip.AddrPort]*listener),
	}
	s.place.Store(newPlace(o.Settings, nil, nil))
	return s
}

// nobody is a directory of no hosts.
type nobody struct{}

func (nobody) Host(string) ([]netip.Addr, error)        { return nil, ErrUnknown }
func (nobody) Address(netip.Addr) ([]netip.Addr, error) { return nil, ErrUnknown }

// Set has the server go on with other settings.
func (s *Server) Set(next Settings) {
	s.change(func(p *place) *place { return newPlace(next, p.own, p.host) })
	s.forwarder.cache.resize(next.Cache)
}

// SetBlocks tells the server this host's blocks, and its own addresses in them, which it listens on.
func (s *Server) SetBlocks(own []netip.Prefix, host []netip.Addr) {
	s.change(func(p *place) *place { return newPlace(p.Settings, slices.Clone(own), slices.Clone(host)) })
}

func (s *Server) change(next func(*place) *place) {
	s.changing.Lock()
	s.place.Store(next(s.place.Load()))
	s.changing.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends. An address that it cannot listen on is a problem in its status, and tried again.
func (s *Server) Run(ctx context.Context) error {
	var retry <-chan time.Time
	for ctx.Err() == nil {
		retry = nil
		if !s.follow(ctx) {
			retry = time.After(retryListen)
		}
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-retry:
		}
	}
	s.keep(nil)
	return nil
}

// isSynced tells whether all endpoints are known. It is asked with every query.
func (s *Server) isSynced() bool {
	if s.synced.Load() {
		return true
	}
	if s.opts.Ready != nil {
		select {
		case <-s.opts.Ready:
		default:
			return false
		}
	}
	s.synced.Store(true)
	return true
}

// admit counts a query of a source that has asked at an address, and tells whether it may be answered.
func (s *Server) admit(from, at netip.Addr) (c caller, ok bool) {
	p := s.place.Load()
	c = caller{p, from, p.asker(s.opts.Names, from, at)}
	bound := p.Rate
	if c.asker == stranger {
		bound *= othersRate
	}
	if bound == 0 || c.asker == itself || s.rate.allow(from, bound, time.Now()) {
		return c, true
	}
	s.counters.limited.Add(1)
	return c, false
}

// answer answers q from memory, or returns who has to be asked.
func (s *Server) answer(q *query) (ask func(context.Context, *query)) {
	t := q.place.topic(q.name, s.opts.Names)
	switch t.subject {
	case ownName:
		q.answerOwn(s.opts.Names, s.isSynced(), t.rest)
		return nil
	case ownAddress:
		q.answerAddress(s.opts.Names, s.isSynced(), t.region)
		return nil
	case parentZone:
		q.answerParent()
		return nil
	}
	switch {
	case q.asker == stranger:
		q.fail(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "not a name of this host, "+q.place.origin)
	case !q.reply.RecursionDesired:
		q.fail(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "not a name of this host, "+q.place.origin)
	case t.subject == fabricPart:
		q.answerPart(t.region)
	case t.subject != elsewhere:
		return func(ctx context.Context, q *query) { s.relay(ctx, q, t) }
	default:
		return s.outside(q)
	}
	return nil
}

// outside answers for what the fabric has nothing to do with.
func (s *Server) outside(q *query) (ask func(context.Context, *query)) {
	if q.special() {
		return nil
	}
	if !q.place.Forward {
		q.fail(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "forwarding is off")
		return nil
	}
	q.kind = Forwarded
	if q.Qtype == dns.TypeANY {
		q.refuseANY(uint32(maxTTL / time.Second))
		return nil
	}
	if s.remembered(q) {
		return nil
	}
	return s.forward
}

// busy is the answer to who has too many queries under way.
func (s *Server) busy(q *query) {
	s.counters.busy.Add(1)
	q.fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, "too many queries under way")
}

// finish is the reply to a query as it goes out.
func (s *Server) finish(q *query, buf []byte) []byte {
	out := q.pack(buf)
	s.counters.answered(q.kind, q.reply.Rcode, time.Since(q.arrived))
	return out
}

// Stats are the server's counts.
func (s *Server) Stats() Stats {
	st := s.counters.stats()
	st.CacheEntries, st.CacheBytes = s.forwarder.cache.size()
	st.Names, st.Waiting, st.Connections = s.opts.Names.Endpoints(), s.waiting.taken(), s.conns.taken()
	return st
}
