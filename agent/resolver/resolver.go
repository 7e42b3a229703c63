// Package resolver tells containers where names are answered: by a value for front-ends whose runtimes write a container's resolv.conf,
// and by a resolv.conf for everybody else.
package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Resolver is what a container's resolv.conf is to say. The zero Resolver says nothing: there is nobody to ask.
type Resolver struct {
	Servers []netip.Addr
	Search  []string // the host's own domain comes first
}

// New is the resolver of a host whose containers are named in domain, itself inside zone.
func New(servers []netip.Addr, domain, zone string) Resolver {
	if len(servers) == 0 {
		return Resolver{}
	}
	return Resolver{Servers: servers, Search: []string{domain, zone}}
}

// Domain is where names of one label are looked for.
func (r Resolver) Domain() string {
	if len(r.Search) == 0 {
		return ""
	}
	return r.Search[0]
}

// For leaves the servers that a container with these addresses can ask: those of a family that it has.
func (r Resolver) For(container []netip.Addr) Resolver {
	var reached []netip.Addr
	for _, server := range r.Servers {
		if slices.ContainsFunc(container, func(a netip.Addr) bool { return a.Is4() == server.Is4() }) {
			reached = append(reached, server)
		}
	}
	if len(reached) == 0 {
		return Resolver{}
	}
	r.Servers = reached
	return r
}

// conf is resolv.conf(5).
func (r Resolver) conf() string {
	var b strings.Builder
	b.WriteString("# Written by hostfabric; it follows the host's addresses.\n")
	for _, server := range r.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	return b.String()
}
