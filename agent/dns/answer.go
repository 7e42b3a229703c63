package dns

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// The answers from memory. Each is true when it is given, and nothing of it may be remembered: TTL and negative TTL are 0.

// answerOwn answers for a name of this host.
func (q *query) answerOwn(z *Zone, synced bool, name string) {
	q.kind = Own
	q.reply.Authoritative = true
	if name == "" {
		q.answerHost()
		return
	}
	if !synced {
		q.unsynced()
		return
	}
	var list [maxAnswers]netip.Addr
	addrs, exists := list[:0], false
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		addrs, exists = z.Addresses(addrs, name, q.Qtype == dns.TypeA)
	default:
		_, exists = z.Addresses(addrs, name, true)
	}
	q.addresses(addrs)
	q.finish(exists, q.place.origin)
}

// answerHost answers for the name of the host itself, where its zone begins.
func (q *query) answerHost() {
	switch q.Qtype {
	case dns.TypeSOA:
		q.reply.Answer = []dns.RR{q.soa(q.Name)}
	case dns.TypeNS:
		q.reply.Answer = []dns.RR{q.ns()}
	case dns.TypeA, dns.TypeAAAA:
		for _, a := range q.place.host {
			if a.Is4() == (q.Qtype == dns.TypeA) {
				q.addresses([]netip.Addr{a})
			}
		}
	}
	q.finish(true, q.place.origin)
}

// answerParent answers for the zone of all hosts, of which each of them knows that it is there.
func (q *query) answerParent() {
	q.kind = Own
	q.reply.Authoritative = true
	switch q.Qtype {
	case dns.TypeSOA:
		q.reply.Answer = []dns.RR{q.soa(q.Name)}
	case dns.TypeNS:
		q.reply.Answer = []dns.RR{q.ns()}
	}
	q.finish(true, q.place.parent)
}

// answerAddress answers for the name of an address of this host, or of a part of its blocks.
func (q *query) answerAddress(z *Zone, synced bool, r region) {
	q.kind = Own
	q.reply.Authoritative = true
	zone := q.place.apexOf(r.Prefix)
	if !zone.IsValid() {
		zone = apex(r.Prefix, r.Addr()) // an address outside all blocks that something here has nevertheless
	}
	exists := !r.beyond
	if exists && r.Prefix == zone {
		switch q.Qtype {
		case dns.TypeSOA:
			q.reply.Answer = []dns.RR{q.soa(q.Name)}
		case dns.TypeNS:
			q.reply.Answer = []dns.RR{q.ns()}
		}
	}
	if exists && r.Bits() == r.Addr().BitLen() {
		name := q.place.origin
		if !slices.Contains(q.place.host, r.Addr()) {
			if !synced {
				q.unsynced()
				return
			}
			name, exists = z.Name(r.Addr())
			name += "." + q.place.origin
		}
		if exists && q.Qtype == dns.TypePTR {
			q.reply.Answer = []dns.RR{&dns.PTR{Hdr: q.header(dns.TypePTR), Ptr: name}}
		}
	}
	q.finish(exists, reverseName(zone))
}

// answerPart answers for a name that stands for many addresses of the fabric, or for none.
func (q *query) answerPart(r region) {
	q.kind = Own
	fabric := holder(q.place.Fabric, r.Addr(), r.Bits())
	zone := apex(fabric, r.Addr())
	if zone.Bits() > r.Bits() {
		zone = r.Prefix
	}
	q.finish(!r.beyond, reverseName(zone))
}

// unsynced is the answer while an earlier run's endpoints are not all known: that there is no such name cannot be said.
func (q *query) unsynced() {
	q.reply.Authoritative = false
	q.fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the agent is restoring its endpoints")
}

// finish completes an answer from memory of a zone.
func (q *query) finish(exists bool, zone string) {
	switch {
	case !exists:
		q.reply.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeANY:
		q.refuseANY(0)
		return
	case len(q.reply.Answer) > 0:
		return
	}
	q.reply.Ns = []dns.RR{q.soa(zone)}
}

// refuseANY answers with one record, whatever there is (RFC 8482 section 4.2).
func (q *query) refuseANY(ttl uint32) {
	h := q.header(dns.TypeHINFO)
	h.Ttl = ttl
	q.reply.Answer = []dns.RR{&dns.HINFO{Hdr: h, Cpu: "RFC8482"}}
}

func (q *query) addresses(addrs []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() {
			q.reply.Answer = append(q.reply.Answer, &dns.A{Hdr: q.header(dns.TypeA), A: a.AsSlice()})
		} else {
			q.reply.Answer = append(q.reply.Answer, &dns.AAAA{Hdr: q.header(dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
}

func (q *query) header(kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET}
}

func (q *query) ns() dns.RR {
	return &dns.NS{Hdr: q.header(dns.TypeNS), Ns: q.place.origin}
}

// soa says of a zone whose it is. Nobody transfers it; the serial is there to be seen growing.
func (q *query) soa(zone string) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET},
		Ns:  q.place.origin, Mbox: "hostmaster." + q.place.origin, Serial: uint32(time.Now().Unix()),
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 0,
	}
}

// special answers for the names that mean the same everywhere (RFC 6761, RFC 7686), which nobody needs to be asked for.
func (q *query) special() bool {
	name := strings.TrimSuffix(q.name, ".")
	switch lastLabel(name) {
	case "localhost":
		switch q.Qtype {
		case dns.TypeA:
			q.addresses([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})})
		case dns.TypeAAAA:
			q.addresses([]netip.Addr{netip.IPv6Loopback()})
		}
	case "invalid", "onion":
		q.reply.Rcode = dns.RcodeNameError
	default:
		return false
	}
	q.kind = Own
	return true
}
