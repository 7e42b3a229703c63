package bgp

import (
	"context"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// Long-lived graceful restart (RFC 9494) is one switch in GoBGP v3, for both roles. We ask for it as the one that restarts. As
// the helper GoBGP would keep a router's routes in the ECMP set beside those of a living one, not as the last resort, and with
// two families it would wait for that router for ever. So a router's routes go after its restart time, as without it.

// longLivedOf is for how many seconds a peer is asked to keep our routes after the restart time.
func longLivedOf(p *api.Peer) uint32 {
	for _, a := range p.GetAfiSafis() {
		if c := a.GetLongLivedGracefulRestart().GetConfig(); c.GetEnabled() {
			return c.GetRestartTime()
		}
	}
	return 0
}

// endStale takes out the routes of routers that were to restart and did not return in time, which counts from when they were
// first seen lost. It returns how long until the next one's time is over; 0: there is none.
func (s *session) endStale(ctx context.Context, c Config, list map[netip.Addr]*api.Peer) (time.Duration, error) {
	if !c.GracefulRestart.longLives() {
		return 0, nil // GoBGP does it
	}
	var next time.Duration
	for _, p := range s.admissible(c).found() {
		cur := list[p.Address]
		if !cur.GetGracefulRestart().GetPeerRestarting() || cur.GetState().GetSessionState() == api.PeerState_ESTABLISHED {
			delete(s.stale, p.Address)
			continue
		}
		until, known := s.stale[p.Address]
		if !known {
			until = time.Now().Add(time.Duration(cur.GetGracefulRestart().GetPeerRestartTime()) * time.Second)
			s.stale[p.Address] = until
		}
		if left := time.Until(until); left > 0 {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		s.log.Warn("router has not returned in its restart time: its routes go", "peer", p.Address)
		s.edit.Lock()
		err := s.rec.renewPeer(ctx, p, c)
		s.edit.Unlock()
		if err != nil {
			return 0, err
		}
		delete(s.stale, p.Address)
	}
	return next, nil
}
