package dns

import (
	"net/netip"
	"strconv"
	"strings"
)

// The domains that addresses have their names in (RFC 1035 section 3.5, RFC 3596 section 2.5).
const (
	reverseV4 = "in-addr.arpa."
	reverseV6 = "ip6.arpa."
)

// region is what a name below one of them is about: a prefix, of one address or of all that begin with the same octets or hexadecimal
// digits. A name that has more labels than mean anything is beyond its region.
type region struct {
	netip.Prefix
	beyond bool
}

// parseReverse understands a name in lower case, with its last dot.
func parseReverse(name string) (r region, ok bool) {
	if rest, ok := below(name, reverseV4); ok {
		return parseLabels(rest, 4, 8, parseOctet), true
	}
	if rest, ok := below(name, reverseV6); ok {
		return parseLabels(rest, 32, 4, parseDigit), true
	}
	return region{}, false
}

// below returns what stands before a domain in a name, without the dot between them.
func below(name, domain string) (rest string, ok bool) {
	if name == domain {
		return "", true
	}
	rest, ok = strings.CutSuffix(name, domain)
	if !ok || !strings.HasSuffix(rest, ".") || escaped(rest, len(rest)-1) {
		return "", false
	}
	return rest[:len(rest)-1], true
}

// escaped tells whether the byte at i is part of a label, whatever it is, in the form that names are written in (RFC 1035 section 5.1).
func escaped(name string, i int) bool {
	n := 0
	for i > n && name[i-n-1] == '\\' {
		n++
	}
	return n%2 == 1
}

// lastLabel is the last label of a name without its last dot.
func lastLabel(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' && !escaped(name, i) {
			return name[i+1:]
		}
	}
	return name
}

// parseLabels reads at most so many labels of some bits each, the last one first.
func parseLabels(text string, most, bits int, parse func(string) (byte, bool)) region {
	var octets [16]byte
	n := 0
	for ; n < most && text != ""; n++ {
		label := lastLabel(text)
		v, ok := parse(label)
		if !ok {
			break
		}
		octets[n*bits/8] |= v << (8 - bits - n*bits%8)
		text = text[:max(len(text)-len(label)-1, 0)]
	}
	addr := netip.AddrFrom16(octets)
	if bits == 8 {
		addr = netip.AddrFrom4([4]byte(octets[:4]))
	}
	return region{netip.PrefixFrom(addr, n*bits), text != ""}
}

func parseOctet(label string) (byte, bool) {
	n, err := strconv.ParseUint(label, 10, 8)
	return byte(n), err == nil && strconv.FormatUint(n, 10) == label
}

func parseDigit(label string) (byte, bool) {
	if len(label) != 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(label, 16, 8)
	return byte(n), err == nil
}

// labelBits is how many bits of an address are a label of its name.
func labelBits(a netip.Addr) int {
	if a.Is4() {
		return 8
	}
	return 4
}

// apex is the part of a block around an address that a zone is made of: names can be divided at labels only. A block that is no
// longer than a label, such as a /26, is a part of a zone that this host answers for where its own addresses are asked for.
func apex(block netip.Prefix, addr netip.Addr) netip.Prefix {
	bits := labelBits(addr)
	length := (block.Bits() + bits - 1) / bits * bits
	if length == addr.BitLen() {
		length -= bits
	}
	p, _ := addr.Prefix(length)
	return p
}

// reverseName is the name of a prefix whose length is one of whole labels.
func reverseName(p netip.Prefix) string {
	bits, base, domain := labelBits(p.Addr()), 10, reverseV4
	if p.Addr().Is6() {
		base, domain = 16, reverseV6
	}
	octets := p.Addr().AsSlice()
	var b strings.Builder
	for n := p.Bits()/bits - 1; n >= 0; n-- {
		v := octets[n*bits/8] >> (8 - bits - n*bits%8) & (1<<bits - 1)
		b.WriteString(strconv.FormatUint(uint64(v), base))
		b.WriteByte('.')
	}
	return b.String() + domain
}
