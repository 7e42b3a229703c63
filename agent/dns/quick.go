package dns

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// quick answers what is asked most, an address of an endpoint of this host by UDP, without taking messages apart and putting them together
// again. Whatever is not just that it leaves to accept and answer (ok is false), whose replies say the same; so does FuzzQuick.
func (s *Server) quick(raw []byte, c caller, out []byte) (reply []byte, ok bool) {
	arrived := time.Now()
	var q quickQuery
	if !q.parse(raw) || !s.isSynced() {
		return nil, false
	}
	name, ok := q.below(c.place.origin)
	if !ok {
		return nil, false
	}
	var list [maxAnswers]netip.Addr
	addrs, _ := s.opts.Names.Addresses(list[:0], string(name), q.kind == dns.TypeA)
	if len(addrs) == 0 || q.size(len(addrs)) > min(q.limit, len(out)) {
		return nil, false
	}
	reply = q.reply(out[:0], addrs, c.asker != stranger)
	s.counters.answered(Own, dns.RcodeSuccess, time.Since(arrived))
	return reply, true
}

// quickQuery is a query for an address of a plain name, without EDNS or with no option of it.
type quickQuery struct {
	raw     []byte
	end     int // of the question
	kind    uint16
	limit   int // most bytes of the reply
	edns    bool
	name    [256]byte // in lower case, with the last dot
	nameLen int
}

// Bits of the third and fourth byte of a header (RFC 1035 section 4.1.1, RFC 4035 section 3.1.6).
const (
	flagResponse, flagAuthoritative, flagRecurse       = 0x80, 0x04, 0x01
	flagRecursion, flagAuthentic, flagCheckingDisabled = 0x80, 0x20, 0x10
)

// optSize is that of an OPT record without options; its DO bit is in the byte optDO.
const optSize, optDO = 11, 7

func (q *quickQuery) parse(raw []byte) bool {
	if len(raw) < headerSize || raw[2]&^flagRecurse != 0 || raw[3]&^(flagAuthentic|flagCheckingDisabled) != 0 {
		return false
	}
	counts := binary.BigEndian.Uint64(raw[4:]) // one question, and at most one additional record
	if counts&^1 != 1<<48 || !q.parseName(raw) {
		return false
	}
	question := raw[q.end:]
	if len(question) < 4 || binary.BigEndian.Uint16(question[2:]) != dns.ClassINET {
		return false
	}
	q.kind = binary.BigEndian.Uint16(question)
	q.raw, q.end, q.limit = raw, q.end+4, plainSize
	if q.kind != dns.TypeA && q.kind != dns.TypeAAAA {
		return false
	}
	opt := raw[q.end:]
	if q.edns = counts&1 != 0; !q.edns {
		return len(opt) == 0
	}
	if len(opt) != optSize || opt[0] != 0 || binary.BigEndian.Uint16(opt[1:]) != dns.TypeOPT || opt[5] != 0 || opt[6] != 0 || opt[9] != 0 || opt[10] != 0 {
		return false
	}
	q.limit = min(max(int(binary.BigEndian.Uint16(opt[3:])), plainSize), udpSize)
	return true
}

// parseName reads a name of letters, digits, hyphens and underscores, which has one form only.
func (q *quickQuery) parseName(raw []byte) bool {
	at, n := headerSize, 0
	for {
		if at >= len(raw) {
			return false
		}
		length := int(raw[at])
		at++
		if length == 0 {
			q.end, q.nameLen = at, n
			return n > 0
		}
		if length > 63 || at+length > len(raw) || n+length+1 > 254 {
			return false
		}
		for _, c := range raw[at : at+length] {
			if c = plainLower[c]; c == 0 {
				return false
			}
			q.name[n] = c
			n++
		}
		q.name[n] = '.'
		n++
		at += length
	}
}

// plainLower is each plain character in lower case, and 0 for the others.
var plainLower = func() (table [256]byte) {
	for c := range table {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			table[c] = byte(c)
		case c >= 'A' && c <= 'Z':
			table[c] = byte(c) + 'a' - 'A'
		}
	}
	return table
}()

// below is what of the name comes before a zone, without the dot between.
func (q *quickQuery) below(zone string) (name []byte, ok bool) {
	n := q.nameLen - len(zone)
	if n < 2 || q.name[n-1] != '.' || string(q.name[n:q.nameLen]) != zone {
		return nil, false
	}
	return q.name[:n-1], true
}

// addressSize is that of a record of an address: it repeats the name by a pointer.
func (q *quickQuery) addressSize() int {
	if q.kind == dns.TypeA {
		return 12 + 4
	}
	return 12 + 16
}

func (q *quickQuery) size(addresses int) int { return q.end + addresses*q.addressSize() + optSize }

func (q *quickQuery) reply(out []byte, addrs []netip.Addr, recursion bool) []byte {
	out = append(out, q.raw[:q.end]...)
	out[2] = flagResponse | flagAuthoritative | q.raw[2]&flagRecurse
	out[3] = q.raw[3] & flagCheckingDisabled
	if recursion {
		out[3] |= flagRecursion
	}
	binary.BigEndian.PutUint16(out[6:], uint16(len(addrs)))
	for _, a := range addrs {
		out = append(out, 0xc0, headerSize, byte(q.kind>>8), byte(q.kind), 0, dns.ClassINET, 0, 0, 0, 0)
		if a.Is4() {
			ip := a.As4()
			out = append(append(out, 0, 4), ip[:]...)
		} else {
			ip := a.As16()
			out = append(append(out, 0, 16), ip[:]...)
		}
	}
	if q.edns {
		do := q.raw[q.end+optDO] & 0x80
		out = append(out, 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xff, 0, 0, do, 0, 0, 0)
	}
	return out
}
