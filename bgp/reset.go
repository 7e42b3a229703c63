package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
)

// ErrNoPeer says that no such peer is configured.
var ErrNoPeer = errors.New("no such peer")

// Reset ends the session with a peer now, and takes its routes away at once, those too that were kept for a peer that
// restarts. The peer is told with a CEASE, a hard reset where it understands one (RFC 8538), and the reason; it drops our
// routes then. The session comes back by itself. A peer that has no session and no routes is left alone.
func (s *Speaker) Reset(ctx context.Context, peer netip.Addr, reason string) error {
	s.edit.Lock() // before it is looked what is wanted: a drain may have been waited for
	defer s.edit.Unlock()
	c, cfg, p, err := s.peerNow(peer)
	if err != nil {
		return err
	}
	r := &reconciler{conn: c, log: s.log, given: map[netip.Addr]bool{}} // the peer stays given
	list, _, err := c.peers(ctx, false)
	if err != nil {
		return err
	}
	cur := list[peer]
	switch {
	case cfg.Shutdown != "" && cur.GetGracefulRestart().GetPeerRestarting(): // a drain may miss it, but not have it added
		return r.deletePeer(ctx, p.Address, p.name())
	case cur.GetState().GetSessionState() == api.PeerState_ESTABLISHED:
		return r.call(ctx, "reset peer "+peer.String(), func(ctx context.Context) error {
			_, err := c.api.ResetPeer(ctx, &api.ResetPeerRequest{Address: p.name(), Communication: cut(reason, gobgpCommunication)})
			return err
		})
	case cur.GetGracefulRestart().GetPeerRestarting():
		return r.renewPeer(ctx, p, *cfg)
	}
	return nil
}

// Enable starts a session that was shut, for too many prefixes or because an external peer has our own AS.
func (s *Speaker) Enable(ctx context.Context, peer netip.Addr) error {
	s.edit.Lock()
	defer s.edit.Unlock()
	c, cfg, p, err := s.peerNow(peer)
	if err != nil {
		return err
	}
	if cfg.Shutdown != "" {
		return fmt.Errorf("peer %s: all peers are shut down: %s", peer, cfg.Shutdown)
	}
	r := &reconciler{conn: c, log: s.log}
	if err := r.enable(ctx, p); err != nil {
		return err
	}
	s.guard.started(peer)
	return nil
}

// enable starts a peer that is shut. The reset has it come up after 1 s of idling in place of 5 s.
func (r *reconciler) enable(ctx context.Context, p Peer) error {
	return r.call(ctx, "enable peer "+p.Address.String(), func(ctx context.Context) error {
		if _, err := r.api.ResetPeer(ctx, &api.ResetPeerRequest{Address: p.name()}); err != nil {
			return err
		}
		_, err := r.api.EnablePeer(ctx, &api.EnablePeerRequest{Address: p.name()})
		return err
	})
}

// peerNow is the connection and the configuration as they are now, and a peer of it.
func (s *Speaker) peerNow(peer netip.Addr) (conn, *Config, Peer, error) {
	c, cfg, err := s.current()
	if err != nil {
		return conn{}, nil, Peer{}, err
	}
	p, err := configured(cfg, peer)
	return c, cfg, p, err
}

func configured(cfg *Config, peer netip.Addr) (Peer, error) {
	if cfg != nil {
		for _, p := range cfg.found() {
			if p.Address == peer {
				return p, nil
			}
		}
	}
	return Peer{}, fmt.Errorf("peer %s: %w", peer, ErrNoPeer)
}
