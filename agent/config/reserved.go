package config

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostfabric/hostfabric/ipam"
)

// parseRange accepts an address, a prefix, and two addresses with a hyphen between them.
func parseRange(text string) (ipam.Range, error) {
	if strings.Contains(text, "/") {
		p, err := parsePrefix(text)
		if err != nil {
			return ipam.Range{}, err
		}
		return ipam.Range{First: p.Addr(), Last: lastOf(p)}, nil
	}
	from, to, two := strings.Cut(text, "-")
	if !two {
		to = from
	}
	first, err := netip.ParseAddr(from)
	last, errLast := netip.ParseAddr(to)
	if err != nil || errLast != nil || first.Zone() != "" || last.Zone() != "" {
		return ipam.Range{}, &problem{fmt.Sprintf("%q is not an address, a prefix or a range", text),
			"such as 10.64.0.5, 10.64.0.8/29 or 10.64.0.20-10.64.0.29"}
	}
	switch {
	case first.Is4In6() || last.Is4In6():
		return ipam.Range{}, &problem{text + " has an IPv4 address written as IPv6", "write it as IPv4"}
	case first.Is4() != last.Is4():
		return ipam.Range{}, &problem{fmt.Sprintf("%s and %s are of different families", first, last), ""}
	case last.Less(first):
		return ipam.Range{}, &problem{text + " ends before it begins", fmt.Sprintf("write %s-%s", last, first)}
	}
	return ipam.Range{First: first, Last: last}, nil
}

// lastOf is the last address of a masked prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
