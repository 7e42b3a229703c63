package bgp

import "net/netip"

// eorTracker follows the peers' End-of-RIB markers (RFC 4724 section 2) until all have told all they know. It knows
// peers by address without zone, as events do.
type eorTracker struct {
	peers map[netip.Addr]*eorPeer
}

type eorPeer struct {
	established bool
	asked       bool            // expected is known
	expected    map[Family]bool // families the peer promised a marker for; none without graceful restart
	received    map[Family]bool
}

// setPeers takes the configured neighbors and keeps what is known of those that stay.
func (t *eorTracker) setPeers(peers []Peer) {
	old := t.peers
	t.peers = make(map[netip.Addr]*eorPeer, len(peers))
	for _, p := range peers {
		a := p.Address.WithZone("")
		if e := old[a]; e != nil {
			t.peers[a] = e
		} else {
			t.peers[a] = &eorPeer{}
		}
	}
}

// state takes a session's state and reports whether the peer just came up.
func (t *eorTracker) state(a netip.Addr, established bool) (up bool) {
	p := t.peers[a.WithZone("")]
	if p == nil || p.established == established {
		return false
	}
	*p = eorPeer{established: established}
	return established
}

// expect takes the families an established peer sends markers for.
func (t *eorTracker) expect(a netip.Addr, families []Family) {
	p := t.peers[a.WithZone("")]
	if p == nil {
		return
	}
	p.asked, p.expected = true, map[Family]bool{}
	for _, f := range families {
		p.expected[f] = true
	}
}

// marker takes an End-of-RIB.
func (t *eorTracker) marker(a netip.Addr, f Family) {
	if p := t.peers[a.WithZone("")]; p != nil {
		if p.received == nil {
			p.received = map[Family]bool{}
		}
		p.received[f] = true
	}
}

// complete reports whether every configured peer is up and has sent all its markers. A peer that sends none is never
// complete: only the deadline ends the wait for it.
func (t *eorTracker) complete() bool {
	for _, p := range t.peers {
		if !p.established || !p.asked || len(p.expected) == 0 {
			return false
		}
		for f := range p.expected {
			if !p.received[f] {
				return false
			}
		}
	}
	return true
}
