package bgp

import (
	"net/netip"
	"slices"
	"sync"
)

// maxNamed bounds how many next hops are remembered of a peer: a router names one or two a family.
const maxNamed = 16

// namedHops remembers which next hops each peer has named, without a zone on the peer.
type namedHops struct {
	mu     sync.Mutex
	byPeer map[netip.Addr][]netip.Addr

	last struct{ peer, hop netip.Addr } // of add alone, which sees the same pair a hundred thousand times
}

func (n *namedHops) add(peer, hop netip.Addr) {
	if n.last.peer == peer && n.last.hop == hop {
		return
	}
	n.last.peer, n.last.hop = peer, hop
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byPeer == nil {
		n.byPeer = make(map[netip.Addr][]netip.Addr)
	}
	if list := n.byPeer[peer]; len(list) < maxNamed && !slices.Contains(list, hop) {
		n.byPeer[peer] = append(list, hop)
	}
}

// NextHops are the next hops that a peer has named since this Speaker was made, in no order. Link-local ones carry the
// interface as zone.
func (s *Speaker) NextHops(peer netip.Addr) []netip.Addr {
	n := &s.view.named
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.byPeer[peer.WithZone("")])
}
