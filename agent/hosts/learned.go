package hosts

import (
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/bgp"
)

// maxServers bounds how many servers are named for a host: one or two are usual.
const maxServers = 16

// learned are the marked prefixes of the fabric.
type learned struct {
	prefixes *index[marked]
	known    map[uint32]int                       // how many prefixes are marked with a hash
	serving  map[uint32]map[netip.Prefix]struct{} // those of them that have a server
}

func newLearned() learned {
	return learned{prefixes: newIndex[marked](), known: map[uint32]int{}, serving: map[uint32]map[netip.Prefix]struct{}{}}
}

func (l *learned) update(upserts []bgp.LearnedRoute, withdrawn []netip.Prefix) {
	for _, r := range upserts {
		l.forget(r.Prefix)
		if m := read(r.Prefix, r.Marks); len(m.hashes) > 0 {
			l.learn(r.Prefix, m)
		}
	}
	for _, p := range withdrawn {
		l.forget(p)
	}
}

func (l *learned) learn(p netip.Prefix, m marked) {
	l.prefixes.set(p, m)
	for _, h := range m.hashes {
		l.known[h]++
		if len(m.servers) == 0 {
			continue
		}
		if l.serving[h] == nil {
			l.serving[h] = map[netip.Prefix]struct{}{}
		}
		l.serving[h][p] = struct{}{}
	}
}

func (l *learned) forget(p netip.Prefix) {
	m, ok := l.prefixes.owners[p]
	if !ok {
		return
	}
	l.prefixes.remove(p)
	for _, h := range m.hashes {
		if l.known[h]--; l.known[h] == 0 {
			delete(l.known, h)
		}
		delete(l.serving[h], p)
		if len(l.serving[h]) == 0 {
			delete(l.serving, h)
		}
	}
}

// servers are those of all hosts whose names have one of the hashes, sorted. known: there are such hosts.
func (l *learned) servers(hashes ...uint32) (servers []netip.Addr, known bool) {
	for _, h := range hashes {
		known = known || l.known[h] > 0
		for p := range l.serving[h] {
			if servers = merge(servers, l.prefixes.owners[p].servers); len(servers) == maxServers {
				break
			}
		}
	}
	slices.SortFunc(servers, netip.Addr.Compare)
	return servers, known
}

func (l *learned) of(addr netip.Addr) (servers []netip.Addr, known bool) {
	m, ok := l.prefixes.find(addr)
	if !ok {
		return nil, false
	}
	return l.servers(m.hashes...)
}
