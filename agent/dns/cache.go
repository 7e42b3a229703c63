package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// cacheKey is a question as far as its answer depends on it.
type cacheKey struct {
	name   string // in lower case
	kind   uint16
	do, cd bool
}

// cached is an answer in the form it has on the wire, whose size is known.
type cached struct {
	key     cacheKey
	message []byte
	stored  time.Time
	ttl     time.Duration
}

// How long answers are remembered at most: those that there is something, those that there is nothing (RFC 2308 section 5), and that
// nobody has an answer (RFC 9520).
const (
	maxTTL      = time.Hour
	maxNegative = 5 * time.Minute
	failureTTL  = time.Second
)

// The memory that an answer takes besides its bytes, and what the answers may take in all.
const (
	cachedOverhead = 300
	maxCacheBytes  = 32 << 20
)

// cache remembers what resolvers answered. The one that was not asked for the longest time goes first.
type cache struct {
	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *cached
	order   list.List                  // last asked for first
	bytes   int
	most    int
}

func newCache(most int) *cache { return &cache{entries: make(map[cacheKey]*list.Element), most: most} }

// resize keeps at most so many answers from now on.
func (c *cache) resize(most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most = most
	c.shrink()
}

// get returns an answer as it is now, its TTLs counted down.
func (c *cache) get(key cacheKey, now time.Time) *dns.Msg {
	c.mu.Lock()
	e := c.entries[key]
	var found cached
	if e != nil {
		if found = *e.Value.(*cached); now.Sub(found.stored) >= found.ttl {
			c.drop(e)
			e = nil
		} else {
			c.order.MoveToFront(e)
		}
	}
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	var m dns.Msg
	if m.Unpack(found.message) != nil {
		return nil // it was packed by us
	}
	age := uint32(now.Sub(found.stored) / time.Second)
	for _, rr := range records(&m) {
		h := rr.Header()
		h.Ttl -= min(age, h.Ttl)
	}
	return &m
}

// put remembers an answer for as long as its records say.
func (c *cache) put(key cacheKey, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	m.Compress = true
	message, err := m.Pack()
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[key]; old != nil {
		c.drop(old)
	}
	e := &cached{key: key, message: message, stored: now, ttl: ttl}
	c.entries[key] = c.order.PushFront(e)
	c.bytes += e.size()
	c.shrink()
}

func (c *cached) size() int { return len(c.message) + len(c.key.name) + cachedOverhead }

func (c *cache) shrink() {
	for len(c.entries) > c.most || c.bytes > maxCacheBytes {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	gone := c.order.Remove(e).(*cached)
	delete(c.entries, gone.key)
	c.bytes -= gone.size()
}

func (c *cache) size() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), c.bytes
}

// lifetime is for how long an answer may be remembered. A negative one without an SOA is not (RFC 2308 section 5).
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return failureTTL
	}
	shortest, negative, known := maxTTL, true, false
	for _, rr := range m.Answer {
		negative = negative && rr.Header().Rrtype != m.Question[0].Qtype
	}
	for _, rr := range records(m) {
		shortest = min(shortest, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if !negative && m.Rcode == dns.RcodeSuccess {
		return shortest
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			known = true
			shortest = min(shortest, maxNegative, time.Duration(soa.Minttl)*time.Second)
		}
	}
	if !known {
		return 0
	}
	return shortest
}

// records are all but EDNS's, which is between two neighbours.
func records(m *dns.Msg) []dns.RR {
	all := make([]dns.RR, 0, len(m.Answer)+len(m.Ns)+len(m.Extra))
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				all = append(all, rr)
			}
		}
	}
	return all
}
