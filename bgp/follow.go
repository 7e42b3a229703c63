package bgp

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
)

// peer follows the state of a session, of which it is known whether it was up. The event tells only the state: the rest is
// asked for.
func (s *session) peer(ctx context.Context, a netip.Addr, wasUp, established, initial bool) error {
	if s.eor.state(a, established) {
		if err := errors.Join(s.admitPeers(ctx), s.expect(ctx, a)); err != nil {
			return err
		}
		s.checkSynced()
	}
	changed := wasUp != established
	if !initial && changed {
		if wasUp {
			s.guard.flapped(a)
		}
		if err := s.watchOver(ctx); err != nil {
			return err
		}
	}
	if !initial && !changed {
		return nil
	}
	return s.tellPeers(ctx, func(p *PeerStatus) bool { return p.Address.WithZone("") == a.WithZone("") })
}

// expect finds out for which families a peer that came up sends an End-of-RIB.
func (s *session) expect(ctx context.Context, a netip.Addr) error {
	list, _, err := s.rec.conn.peers(ctx, false)
	if err != nil {
		return err
	}
	for addr, p := range list {
		if addr.WithZone("") != a.WithZone("") {
			continue
		}
		s.eor.expect(a, eorFamilies(p))
	}
	return nil
}

// tellAnnounced tells the consumer how the announcements have changed to the desired ones.
func (s *session) tellAnnounced(d desired) {
	if s.originated == nil {
		s.originated = append([]netip.Prefix{}, s.rec.found...)
	}
	if !d.announced {
		return
	}
	now := make([]netip.Prefix, len(d.set))
	for i, a := range d.set {
		now[i] = a.Prefix
	}
	added, withdrawn := lacking(s.originated, now), lacking(now, s.originated)
	s.originated = now
	if s.opts.Events.Announced != nil && len(added)+len(withdrawn) > 0 {
		s.opts.Events.Announced(added, withdrawn)
	}
}

// lacking is what of some prefixes a set does not have.
func lacking(set, of []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(of), func(p netip.Prefix) bool { return slices.Contains(set, p) })
}

// tellLost tells of the sessions that a speaker of before had and this one does not: no event says so.
func (s *session) tellLost(ctx context.Context) error {
	return s.tellPeers(ctx, func(p *PeerStatus) bool {
		if !s.up[p.Address] || s.states[p.Address.WithZone("")] == api.PeerState_ESTABLISHED {
			return false
		}
		if p.State == StateEstablished {
			p.State = StateIdle // it is up again: an event says that later
		}
		return true
	})
}

// tellPeers tells the consumer of the peers that are meant, as they are now.
func (s *session) tellPeers(ctx context.Context, meant func(*PeerStatus) bool) error {
	if s.opts.Events.Peer == nil {
		return nil
	}
	c, cfg, err := s.current()
	if err != nil {
		return err
	}
	list, err := c.peerStatus(ctx, cfg, false)
	if err != nil {
		return err
	}
	s.view.tallies.fill(list)
	s.guard.fill(list)
	s.markHeld(list)
	for _, p := range list {
		if meant(&p) {
			delete(s.up, p.Address)
			if p.State == StateEstablished {
				s.up[p.Address] = true
			}
			s.opts.Events.Peer(p)
		}
	}
	return nil
}
