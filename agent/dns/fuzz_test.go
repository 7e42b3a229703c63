package dns

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// seeds are messages that are malformed in ways that have brought servers down, and some that are not.
func seeds(f *testing.F) (list [][]byte) {
	for _, text := range []string{
		"1234 0100 0001 0000 0000 0000" + web,
		"1234 0100 0001 0000 0000 0001" + web + "00 0029 1000 00000000 0000",
		"1234 0100 0001 0000 0000 0000 c00c 0001 0001",           // a name that is itself
		"1234 0100 0001 0000 0000 0000 0161 c00c 0001 0001",      // one that ends with itself
		"1234 0100 0001 0000 0000 0000 c00e c00c 0001 0001",      // two in a ring
		"1234 0100 0001 0000 0000 0001 c01d 0001 0001 c00c 0029", // an option that the question points into
		"1234 8180 0001 0001 0000 0000" + web + "c00c 0001 0001 0000 0000 0004 0a40 0041",
		"1234 8183 0001 0000 0001 0000" + web + "c00c 0006 0001 0000 0000 0004 c00c c00c",
		"1234 8180 ffff ffff ffff ffff",
		"1234 8183 0001 0000 0001 0000" + web + "c00c 0006 4e4e 00000000 0001 00", // an SOA that ends too early
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, raw)
	}
	return list
}

// FuzzQuery: whatever comes, the reply is one to it, is well-formed, and is no longer than it may be.
func FuzzQuery(f *testing.F) {
	for _, raw := range seeds(f) {
		f.Add(raw, false)
		f.Add(raw, true)
	}
	s := newServer(f, nil)
	s.opts.Names.Publish(endpoint("web", "10.64.0.65 fd00:64:0:1::1", "Front", "www.shop"))
	f.Fuzz(func(t *testing.T, raw []byte, local bool) {
		from := aStranger
		if local {
			from = aContainer
		}
		reply := s.send(t, raw, from)
		if len(raw) < headerSize || raw[2]&0x80 != 0 {
			if reply != nil {
				t.Fatal("answered what is no query")
			}
			return
		}
		var r dns.Msg
		if err := r.Unpack(reply); err != nil || !r.Response || reply[0] != raw[0] || reply[1] != raw[1] || len(reply) > udpSize {
			t.Fatalf("%d bytes: %v, %v", len(reply), &r, err)
		}
		if len(reply) > plainSize && r.IsEdns0() == nil {
			t.Fatalf("%d bytes without EDNS", len(reply))
		}
	})
}

// FuzzReverse: a name is about what the name of that is.
func FuzzReverse(f *testing.F) {
	for _, name := range []string{"65.0.64.10.in-addr.arpa.", "in-addr.arpa.", "1.0.0.0.d.f.ip6.arpa.", `a\.0.10.in-addr.arpa.`, "256.01.10.in-addr.arpa.", "..ip6.arpa."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		name = strings.ToLower(name)
		r, ok := parseReverse(name)
		if !ok {
			return
		}
		back := reverseName(r.Prefix)
		if rest, ok := below(name, back); !ok || r.beyond != (rest != "") {
			t.Fatalf("%q is about %s, whose name is %q, beyond: %v", name, r.Prefix, back, r.beyond)
		}
	})
}

// FuzzReply: nothing that another server says can be packed badly, remembered wrongly, or go beyond what it was asked for.
func FuzzReply(f *testing.F) {
	for _, raw := range seeds(f) {
		f.Add(raw)
	}
	s := newServer(f, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := question("web.r1h1.fabric.internal.", "A")
		m.Id = 0x1234
		reply, err := matching(raw, m)
		if err != nil {
			return
		}
		asked := func() *query {
			c := caller{s.place.Load(), addr(aContainer), container}
			q := &query{caller: c, Question: m.Question[0], name: m.Question[0].Name, arrived: time.Now(), limit: plainSize}
			q.reply.Question, q.reply.Response = m.Question, true
			return q
		}
		check := func(q *query) {
			var r dns.Msg
			if out := q.pack(nil); r.Unpack(out) != nil || len(out) > plainSize {
				t.Fatalf("%d bytes: %v", len(out), &r)
			}
		}
		if q := asked(); q.adopt(reply.Copy(), netip.AddrPort{}) == nil {
			for _, rr := range q.reply.Answer {
				if h := rr.Header(); h.Name != q.Name || h.Ttl != 0 {
					t.Fatalf("told of %v", rr)
				}
			}
			check(q)
		}
		q := asked()
		q.take(reply.Copy())
		check(q)
		c, now := newCache(1), time.Now()
		key := q.cacheKey()
		if c.put(key, reply, now); c.get(key, now.Add(maxTTL)) != nil {
			t.Fatal("remembered for longer than anything is")
		}
		if kept := c.get(key, now); kept != nil {
			q := asked()
			q.take(kept)
			check(q)
		}
	})
}
