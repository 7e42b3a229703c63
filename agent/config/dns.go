package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// DNS is about the names of containers, and what else they ask for.
type DNS struct {
	Enabled   bool
	Zone      string           // of all hosts together, in lower case and without the last dot; <name>.<host>.<Zone> is a container
	Forward   bool             // what is not about the fabric is asked elsewhere, for this host and its containers
	Upstreams []netip.AddrPort // where; none: the resolvers in the host's resolv.conf
	Listen    []netip.AddrPort // besides port 53 of the host's own addresses
	Timeout   time.Duration    // for a query that others have to answer
	Cache     int              // most answers remembered of those that were forwarded
	Rate      int              // queries a second of one container; 0: no bound
}

const dnsPort = 53

// maxZone is what an endpoint's name (128), a host's (63) and two dots leave of the 253 bytes a name can have.
const maxZone = 60

// parseZone accepts the name of a DNS zone that hosts can have names in.
func parseZone(text string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	for part := range strings.SplitSeq(name, ".") {
		if !label.MatchString(part) {
			return "", &problem{fmt.Sprintf("%q is not the name of a zone", text), "labels of letters, digits and inner hyphens joined by dots, such as fabric.internal"}
		}
	}
	switch {
	case len(name) > maxZone:
		return "", &problem{fmt.Sprintf("%q has %d bytes", text, len(name)), fmt.Sprintf("at most %d, for the names of host and container come before it", maxZone)}
	case name == "arpa" || strings.HasSuffix(name, ".arpa"):
		return "", &problem{fmt.Sprintf("%q is where the names of addresses are", text), "such as fabric.internal"}
	}
	return name, nil
}

// parseServer accepts an address with or without a port, for which standard is taken.
func parseServer(standard uint16, example string) func(string) (netip.AddrPort, error) {
	return func(text string) (netip.AddrPort, error) {
		if _, err := netip.ParseAddr(text); err == nil {
			a, err := parseAddr(text)
			return netip.AddrPortFrom(a, standard), err
		}
		p, err := netip.ParseAddrPort(text)
		if err != nil || p.Port() == 0 {
			return netip.AddrPort{}, &problem{fmt.Sprintf("%q is not an address and port", text), "such as " + example}
		}
		if _, err := parseAddr(p.Addr().String()); err != nil {
			return netip.AddrPort{}, err
		}
		return p, nil
	}
}

func (d *draft) setDNS(l *layers, r *report) {
	for _, list := range []struct {
		key     string
		example string
		to      *[]netip.AddrPort
	}{
		{"dns.upstreams", "192.0.2.53 or '[fd00::53]:5353'", &d.DNS.Upstreams},
		{"dns.listen", "127.0.0.1:53", &d.DNS.Listen},
	} {
		for _, e := range elements(list.key, l.list(list.key, r, ""), r, parseServer(dnsPort, list.example)) {
			if slices.Contains(*list.to, e.value) {
				r.add(e.path, fmt.Sprintf("%s is there twice", e.value), "remove one")
				continue
			}
			*list.to = append(*list.to, e.value)
		}
	}
}
