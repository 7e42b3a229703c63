package dns

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Sizes of messages over UDP in bytes: without EDNS (RFC 1035 section 4.2.1), and the largest that is sent or asked for with it, which no
// link fragments.
const (
	plainSize = dns.MinMsgSize
	udpSize   = 1232
)

const headerSize = 12

// caller is who asks, and what this host is at that moment.
type caller struct {
	place *place
	from  netip.Addr
	asker asker
}

// query is a query under way, and the reply that becomes of it.
type query struct {
	dns.Question        // the name as it was asked
	name         string // in lower case
	caller
	arrived time.Time
	limit   int // most bytes of the reply
	edns    *dns.OPT
	do, cd  bool
	kind    Kind
	reply   dns.Msg
}

// accept understands a query. A reply that is complete by then, since it is a mistake, comes with done; packets that are no queries get none.
func (s *Server) accept(raw []byte, c caller, tcp bool) (q *query, done, ignore bool) {
	if len(raw) < headerSize || raw[2]&0x80 != 0 { // too short, or a response: two servers must never answer one another
		return nil, false, true
	}
	q = &query{caller: c, kind: Rejected, arrived: time.Now(), limit: plainSize}
	if tcp {
		q.limit = dns.MaxMsgSize
	}
	h := &q.reply.MsgHdr
	h.Id, h.Response, h.Opcode = binary.BigEndian.Uint16(raw), true, int(raw[2]>>3&0xf)
	h.RecursionDesired, h.CheckingDisabled = raw[2]&1 != 0, raw[3]&0x10 != 0
	h.RecursionAvailable = q.asker != stranger
	if h.Opcode != dns.OpcodeQuery {
		return q.mistake(dns.RcodeNotImplemented)
	}
	var m dns.Msg
	if m.Unpack(raw) != nil || len(m.Question) != 1 { // RFC 9619
		return q.mistake(dns.RcodeFormatError)
	}
	q.Question = m.Question[0]
	q.reply.Question = m.Question
	q.name = strings.ToLower(q.Name)
	q.cd = h.CheckingDisabled
	if rcode := q.options(m.Extra, tcp); rcode != dns.RcodeSuccess {
		return q.mistake(rcode)
	}
	if rcode := answerable(q.Question); rcode != dns.RcodeSuccess {
		return q.mistake(rcode)
	}
	return q, false, false
}

func (q *query) mistake(rcode int) (*query, bool, bool) {
	q.reply.Rcode = rcode
	return q, true, false
}

// options reads what EDNS says (RFC 6891).
func (q *query) options(extra []dns.RR, tcp bool) (rcode int) {
	for _, rr := range extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		if q.edns != nil || opt.Hdr.Name != "." {
			return dns.RcodeFormatError
		}
		q.edns = opt
	}
	if q.edns == nil {
		return dns.RcodeSuccess
	}
	if !tcp {
		q.limit = min(max(int(q.edns.UDPSize()), plainSize), udpSize)
	}
	q.do = q.edns.Do()
	if q.edns.Version() != 0 {
		return dns.RcodeBadVers
	}
	return dns.RcodeSuccess
}

// answerable refuses what no name here has, of whatever zone it is: other classes, transfers and what is no type of data (RFC 6895
// section 3.1).
func answerable(q dns.Question) (rcode int) {
	switch {
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		return dns.RcodeRefused
	case q.Qtype == dns.TypeNone, q.Qtype == dns.TypeOPT:
		return dns.RcodeFormatError
	case q.Qtype >= 128 && q.Qtype < dns.TypeANY:
		return dns.RcodeNotImplemented
	}
	return dns.RcodeSuccess
}

// maxExplanation leaves room for the question in the smallest datagram, in bytes.
const maxExplanation = 180

// explain adds a word on what went wrong (RFC 8914), for who understands it.
func (q *query) explain(code uint16, text string) {
	if q.edns == nil {
		return
	}
	q.respondEDNS()
	opt := q.reply.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text[:min(len(text), maxExplanation)]})
}

// respondEDNS has the reply carry an OPT record.
func (q *query) respondEDNS() {
	if q.reply.IsEdns0() == nil {
		q.reply.SetEdns0(udpSize, q.do)
	}
}

// fail ends a query without an answer.
func (q *query) fail(rcode int, code uint16, text string) {
	q.reply.Rcode = rcode
	q.explain(code, text)
}

// pack writes the reply into buf, if it has room for it. Over UDP what is longer than who asked can take is truncated.
func (q *query) pack(buf []byte) []byte {
	if q.edns != nil {
		q.respondEDNS()
	}
	q.reply.Truncate(q.limit)
	out, err := q.reply.PackBuffer(buf)
	if err == nil {
		return out
	}
	// A record that cannot be packed came from elsewhere.
	q.reply.Answer, q.reply.Ns, q.reply.Extra, q.reply.Rcode = nil, nil, nil, dns.RcodeServerFailure
	out, _ = q.reply.PackBuffer(buf)
	return out
}
