package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// place is where in DNS this host is, and what it is set to. It is replaced as a whole.
type place struct {
	Settings
	own    []netip.Prefix // this host's blocks
	host   []netip.Addr   // its own addresses in them
	origin string         // of its names, in lower case and with the last dot
	parent string         // of all hosts' names
}

func newPlace(s Settings, own []netip.Prefix, host []netip.Addr) *place {
	parent := dns.Fqdn(strings.ToLower(s.Zone))
	return &place{Settings: s, own: own, host: host, origin: strings.ToLower(s.Host) + "." + parent, parent: parent}
}

// asker is who a query is of.
type asker int

const (
	stranger  asker = iota
	container       // of this host
	itself          // the host
)

// asker tells who asks. at is the address that was asked: where that is the source as well, it is the host.
func (p *place) asker(z *Zone, from, at netip.Addr) asker {
	switch {
	case from.IsLoopback(), from == at, slices.Contains(p.host, from):
		return itself
	case holder(p.own, from, from.BitLen()).IsValid(), z.known(from):
		return container
	}
	return stranger
}

// holder is the first prefix that has all of a prefix; the zero one if none has.
func holder(prefixes []netip.Prefix, a netip.Addr, bits int) netip.Prefix {
	for _, p := range prefixes {
		if p.Bits() <= bits && p.Contains(a) {
			return p
		}
	}
	return netip.Prefix{}
}

// source is this host's own address of the family of another one: the fabric has a route to it, as it need not have to those of the links to
// the routers. The zero one if it has none.
func (p *place) source(to netip.Addr) netip.Addr {
	for _, a := range p.host {
		if a.Is4() == to.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// apexOf is the reverse zone that this host has around a prefix, or that begins with it; nothing if it has none.
func (p *place) apexOf(r netip.Prefix) netip.Prefix {
	for _, block := range p.own {
		if block.Addr().Is4() != r.Addr().Is4() {
			continue
		}
		if block.Contains(r.Addr()) && r.Bits() >= block.Bits() {
			return apex(block, r.Addr())
		}
		if zone := apex(block, block.Addr()); zone == r {
			return zone
		}
	}
	return netip.Prefix{}
}

// subject is who a name is about.
type subject int

const (
	elsewhere    subject = iota // nothing of the fabric
	ownName                     // this host, or an endpoint of it
	ownAddress                  // an address of this host's blocks, or a part of them
	parentZone                  // the zone that all hosts are in
	otherName                   // another host, or an endpoint of it
	otherAddress                // an address of the fabric that is not this host's
	fabricPart                  // a part of the fabric's addresses that is no single one
)

// topic is what a name is about.
type topic struct {
	subject
	rest   string // ownName: the name relative to this host's. otherName: the host
	region region // of addresses
}

// topic classifies a name in lower case. Endpoints have addresses outside all blocks where a block was taken from the configuration.
func (p *place) topic(name string, z *Zone) topic {
	if rest, ok := below(name, p.origin); ok {
		return topic{subject: ownName, rest: rest}
	}
	if rest, ok := below(name, p.parent); ok {
		if rest == "" {
			return topic{subject: parentZone}
		}
		return topic{subject: otherName, rest: lastLabel(rest)}
	}
	r, ok := parseReverse(name)
	if !ok {
		return topic{}
	}
	t := topic{region: r}
	whole := r.Bits() == r.Addr().BitLen()
	switch {
	case p.apexOf(r.Prefix).IsValid(), whole && slices.Contains(p.host, r.Addr()), whole && z.known(r.Addr()):
		t.subject = ownAddress
	case !holder(p.Fabric, r.Addr(), r.Bits()).IsValid():
	case whole && !r.beyond:
		t.subject = otherAddress
	default:
		t.subject = fabricPart
	}
	return t
}

func (z *Zone) known(addr netip.Addr) bool {
	_, ok := z.Name(addr)
	return ok
}
