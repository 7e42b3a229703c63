package bgp

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxRest is the longest wait before a session that was shut is started again, unless its first is longer.
	maxRest = time.Hour
	// internalRest is the first wait of a session that turned out to be within our own AS.
	internalRest = time.Minute
	// hasteInterval is the least time between two returns of a session that are hastened: one that does not last, or that the
	// peer refuses, is left to GoBGP's own wait.
	hasteInterval = 10 * time.Second
)

// internalReason is told of a peer that has our own AS number.
const internalReason = "the peer has our own AS number, and is configured external"

// rest is a session that was shut, and will be started again.
type rest struct {
	reason string        // more than the speaker tells; may be empty
	shut   bool          // at the moment
	until  time.Time     // zero: not by itself
	wait   time.Duration // the last one
}

// soonAgain is how soon after it was started a session must be shut again for its wait to grow, at least: as much as the
// session needs to come up.
const soonAgain = time.Minute

// guard remembers the sessions that were shut, by the peer's address. They are shut in the speaker: with the agent gone
// they stay so, and a new agent lets them wait anew.
type guard struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	rests map[netip.Addr]*rest
	lost  map[netip.Addr]time.Time // when the return of a session was last hastened
	tried map[netip.Addr]time.Time // when the next attempt was, after one that failed
	flaps map[netip.Addr]uint32    // losses, by address without zone: adding a peer anew clears the speaker's own count
}

func newGuard() *guard {
	return &guard{now: time.Now, rests: map[netip.Addr]*rest{}, lost: map[netip.Addr]time.Time{}, tried: map[netip.Addr]time.Time{}, flaps: map[netip.Addr]uint32{}}
}

// shut notes that a session is shut. The wait doubles if it was started again less than twice the last wait, or
// soonAgain, ago. It reports whether this is news.
func (g *guard) shut(a netip.Addr, reason string, first time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rests[a]
	if r == nil {
		r = &rest{}
		g.rests[a] = r
	}
	if r.shut {
		return false
	}
	now := g.now()
	r.shut, r.reason = true, reason
	switch {
	case first == 0:
		r.until, r.wait = time.Time{}, 0
		return true
	case r.wait != 0 && now.Before(r.until.Add(max(2*r.wait, soonAgain))):
		r.wait = min(2*r.wait, max(maxRest, first))
	default:
		r.wait = first
	}
	r.until = now.Add(r.wait)
	return true
}

// started notes that a session is no longer shut.
func (g *guard) started(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.rests[a]; r != nil {
		r.shut = false
	}
}

// due returns the sessions to start now, and how long until the next ones; 0: there are none.
func (g *guard) due() (now []netip.Addr, next time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for a, r := range g.rests {
		if !r.shut || r.until.IsZero() {
			continue
		}
		left := r.until.Sub(g.now())
		if left <= 0 {
			now = append(now, a)
		} else if next == 0 || left < next {
			next = left
		}
	}
	return now, next
}

// flapped counts a lost session.
func (g *guard) flapped(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flaps[a.WithZone("")]++
}

// hasty reports whether the return of a session that was up, or only tried, may be hastened now, and counts that it is.
func (g *guard) hasty(a netip.Addr, wasUp bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, last := g.now(), g.lost
	if !wasUp {
		last = g.tried
	}
	if t, ok := last[a]; ok && now.Sub(t) < hasteInterval {
		return false
	}
	last[a] = now
	return true
}

// keep forgets all but these peers.
func (g *guard) keep(peers []Peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := map[netip.Addr]bool{}
	for _, p := range peers {
		known[p.Address], known[p.Address.WithZone("")] = true, true
	}
	maps.DeleteFunc(g.rests, func(a netip.Addr, _ *rest) bool { return !known[a] })
	maps.DeleteFunc(g.lost, func(a netip.Addr, _ time.Time) bool { return !known[a] })
	maps.DeleteFunc(g.tried, func(a netip.Addr, _ time.Time) bool { return !known[a] })
	maps.DeleteFunc(g.flaps, func(a netip.Addr, _ uint32) bool { return !known[a] })
}

// fill completes the status of the peers.
func (g *guard) fill(list []PeerStatus) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range list {
		p := &list[i]
		p.Flaps = max(p.Flaps, g.flaps[p.Address.WithZone("")])
		r := g.rests[p.Address]
		if r == nil || !r.shut || p.State != StatePrefixLimit && p.State != StateAdminDown {
			continue
		}
		if r.reason != "" {
			p.LastDown = r.reason
		}
		if p.Restart = r.until; r.until.IsZero() {
			p.LastDown += "; stays down until it is reset"
		} else {
			p.LastDown += fmt.Sprintf("; tried again in %s", max(r.until.Sub(g.now()), 0).Round(time.Second))
		}
	}
}

// watchOver looks at the state of all peers: one that was shut for its prefixes is noted, one that has our AS although it is
// external is shut, and those that have rested are started.
func (s *session) watchOver(ctx context.Context) error {
	s.rest.Stop()
	d := s.desired()
	if d.config == nil || d.config.Shutdown != "" {
		return nil
	}
	list, _, err := s.rec.conn.peers(ctx, false)
	if err != nil {
		return err
	}
	peers := s.admissible(*d.config).found()
	s.guard.keep(d.config.found())
	for _, p := range peers {
		st := list[p.Address].GetState()
		switch {
		case st.GetAdminState() == api.PeerState_PFX_CT:
			if s.guard.shut(p.Address, "", p.MaxPrefixesRestart) {
				s.log.Warn("session shut for too many prefixes", "peer", p.Address, "limit", p.maxPrefixes())
			}
		case st.GetAdminState() == api.PeerState_DOWN:
			if !s.looked { // an earlier agent shut it and is gone
				err = s.rec.enable(ctx, p)
			}
		case p.ASN == 0 && st.GetSessionState() == api.PeerState_ESTABLISHED && st.GetPeerAsn() == p.localAS(*d.config):
			err = s.shutInternal(ctx, p)
		default:
			s.guard.started(p.Address)
		}
		if err != nil {
			return err
		}
	}
	s.looked = true
	expiry, err := s.endStale(ctx, *d.config, list)
	if err != nil {
		return err
	}
	due, _ := s.guard.due()
	for _, p := range peers {
		if !slices.Contains(due, p.Address) {
			continue
		}
		s.log.Info("session started again", "peer", p.Address)
		if err := s.rec.enable(ctx, p); err != nil {
			return err
		}
		s.guard.started(p.Address)
	}
	if _, next := s.guard.due(); next > 0 && (expiry == 0 || next < expiry) {
		expiry = next
	}
	if expiry > 0 {
		s.rest.Reset(expiry)
	}
	return nil
}

func (s *session) shutInternal(ctx context.Context, p Peer) error {
	s.log.Error("session shut: "+internalReason, "peer", p.Address)
	err := s.rec.call(ctx, "disable peer "+p.Address.String(), func(ctx context.Context) error {
		_, err := s.rec.api.DisablePeer(ctx, &api.DisablePeerRequest{Address: p.name(), Communication: internalReason})
		return err
	})
	if err == nil {
		s.guard.shut(p.Address, internalReason, internalRest)
	}
	return err
}

// hasten has a session that was just lost, or an attempt at one that failed, come back sooner. GoBGP waits 5 s, and up to 2 s more for the first attempt. A peer
// that is added anew has only the latter, but that drops the routes it is to keep in a graceful restart: of those peers the
// wait is cut to 1 s, which GoBGP takes over when a peer is reset, disabled and enabled while it is idle.
func (s *session) hasten(ctx context.Context, a netip.Addr, wasUp bool) error {
	d := s.desired()
	if d.config == nil || d.config.Shutdown != "" || s.rec.warm {
		return nil
	}
	for _, p := range d.config.found() {
		if p.Address.WithZone("") != a.WithZone("") || !s.guard.hasty(p.Address, wasUp) {
			continue
		}
		if err := s.rec.retrySoon(ctx, p, *d.config); err != nil {
			return err
		}
	}
	return nil
}

// retrySoon does nothing to a peer that is not idle.
func (r *reconciler) retrySoon(ctx context.Context, p Peer, c Config) error {
	r.edit.Lock()
	defer r.edit.Unlock()
	list, _, err := r.conn.peers(ctx, false)
	if err != nil {
		return err
	}
	cur := list[p.Address]
	st := cur.GetState()
	if cur == nil || st.GetSessionState() != api.PeerState_IDLE || st.GetAdminState() != api.PeerState_UP {
		return nil
	}
	if !keepsRoutes(cur) {
		return r.renewPeer(ctx, p, c)
	}
	addr := p.name()
	if err := r.call(ctx, "retry peer "+addr, func(ctx context.Context) error {
		if _, err := r.api.ResetPeer(ctx, &api.ResetPeerRequest{Address: addr}); err != nil {
			return err
		}
		_, err := r.api.DisablePeer(ctx, &api.DisablePeerRequest{Address: addr})
		return err
	}); err != nil {
		return err
	}
	// GoBGP drops a request that comes before the one before is done.
	if err := r.awaitAdmin(ctx, p.Address, api.PeerState_DOWN); err != nil {
		return err
	}
	return r.enable(ctx, p)
}

// awaitAdmin waits a moment for a peer to have an administrative state.
func (r *reconciler) awaitAdmin(ctx context.Context, a netip.Addr, want api.PeerState_AdminState) error {
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		list, _, err := r.conn.peers(limited, false)
		switch {
		case limited.Err() != nil || status.Code(err) == codes.DeadlineExceeded:
			return ctx.Err() // with a busy speaker the caller goes on: the next look finds out
		case err != nil || list[a].GetState().GetAdminState() == want:
			return err
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			return ctx.Err()
		}
	}
}

// keepsRoutes reports whether the speaker may hold routes of a peer that is restarting (RFC 4724).
func keepsRoutes(p *api.Peer) bool {
	if !p.GetGracefulRestart().GetPeerRestarting() {
		return false
	}
	for _, a := range p.GetAfiSafis() {
		if a.GetMpGracefulRestart().GetState().GetEnabled() {
			return true
		}
	}
	return false
}
