package dns

import (
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Kind is who had the answer to a query.
type Kind string

// The kinds there are.
const (
	Own       Kind = "own"       // this host: names and addresses of its containers, and its own
	Other     Kind = "other"     // another host of the fabric
	Forwarded Kind = "forwarded" // a resolver, or the cache of what resolvers answered
	Rejected  Kind = "rejected"  // nobody: it is malformed, or not for its sender to ask
)

var kinds = []Kind{Own, Other, Forwarded, Rejected}

// Outcome is how a query ended.
type Outcome struct {
	Kind  Kind
	Rcode string // such as NOERROR; other than the usual ones is "other"
}

// Bounds are the upper bounds of a Histogram's buckets in seconds, in ascending order.
var Bounds = []float64{0.00001, 0.000025, 0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5}

// Histogram counts how long queries took.
type Histogram struct {
	Counts []uint64 // one a bound, then those above the last; each counts its own bucket only
	Sum    float64  // seconds
}

// Count is how many there were in all.
func (h Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Stats are a server's counts since it was made, and what it holds now.
type Stats struct {
	Answers   map[Outcome]uint64 // those that there were
	Durations map[Kind]Histogram // from the arrival of a query to its answer, of all kinds
	Limited   uint64             // queries dropped because their source asks too often
	Busy      uint64             // queries not relayed or forwarded, and connections not served, because too many are under way
	Ignored   uint64             // packets that are no query: they get no answer

	CacheHits    uint64
	CacheMisses  uint64
	CacheEntries int
	CacheBytes   int

	Names       int // of endpoints
	Waiting     int // queries that others have to answer
	Connections int // over TCP
}

// rcodes are counted apart; what others there are comes last.
var rcodes = []int{dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeBadVers}

// counters are what Stats are made of.
type counters struct {
	answers   [4][8]atomic.Uint64  // by kind and rcode, in the order above
	durations [4][11]atomic.Uint64 // by kind and bucket
	sums      [4]atomic.Int64      // nanoseconds
	limited   atomic.Uint64
	busy      atomic.Uint64
	ignored   atomic.Uint64
	hits      atomic.Uint64
	misses    atomic.Uint64
}

func (c *counters) answered(kind Kind, rcode int, took time.Duration) {
	k := indexOf(kinds, kind)
	c.answers[k][indexOf(rcodes, rcode)].Add(1)
	bucket := 0
	for bucket < len(Bounds) && took.Seconds() > Bounds[bucket] {
		bucket++
	}
	c.durations[k][bucket].Add(1)
	c.sums[k].Add(int64(took))
}

// indexOf is len(list) for what is not in it.
func indexOf[T comparable](list []T, v T) int {
	for i := range list {
		if list[i] == v {
			return i
		}
	}
	return len(list)
}

func (c *counters) stats() Stats {
	s := Stats{
		Answers: make(map[Outcome]uint64), Durations: make(map[Kind]Histogram),
		Limited: c.limited.Load(), Busy: c.busy.Load(), Ignored: c.ignored.Load(),
		CacheHits: c.hits.Load(), CacheMisses: c.misses.Load(),
	}
	for k, kind := range kinds {
		for i := range c.answers[k] {
			if n := c.answers[k][i].Load(); n > 0 {
				s.Answers[Outcome{kind, rcodeText(i)}] = n
			}
		}
		h := Histogram{Counts: make([]uint64, len(Bounds)+1), Sum: time.Duration(c.sums[k].Load()).Seconds()}
		for i := range h.Counts {
			h.Counts[i] = c.durations[k][i].Load()
		}
		s.Durations[kind] = h
	}
	return s
}

func rcodeText(index int) string {
	switch {
	case index == len(rcodes):
		return "other"
	case rcodes[index] == dns.RcodeBadVers:
		return "BADVERS" // the number is also that of BADSIG, which is about something else
	}
	return dns.RcodeToString[rcodes[index]]
}
