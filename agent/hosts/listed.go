package hosts

import (
	"net/netip"
	"strings"
)

// Listed is a host as the configuration has it.
type Listed struct {
	Name    string       // one label
	Servers []netip.Addr // on which it answers DNS
	Blocks  []netip.Prefix
}

// listed are the hosts of the configuration.
type listed struct {
	servers map[string][]netip.Addr // by name in lower case
	blocks  *index[string]          // of names
}

func newListed(list []Listed) listed {
	l := listed{servers: map[string][]netip.Addr{}, blocks: newIndex[string]()}
	for _, h := range list {
		name := strings.ToLower(h.Name)
		l.servers[name] = merge(l.servers[name], h.Servers)
		for _, b := range h.Blocks {
			l.blocks.set(b.Masked(), name)
		}
	}
	return l
}

func (l *listed) of(addr netip.Addr) (servers []netip.Addr, known bool) {
	name, ok := l.blocks.find(addr)
	return l.servers[name], ok
}
