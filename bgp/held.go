package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/bgp/internal/blame"
	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// blameFor takes one crash of the speaker. given are the peers it had; nil: not known.
func (s *Speaker) blameFor(c meta.Crash, given []netip.Addr) {
	now := time.Now()
	s.mu.Lock()
	configured := addresses(s.want.config)
	culprit := match(c.Peer, configured)
	switch {
	case culprit.IsValid():
		s.blame.Named(now, culprit)
	case c.Peer.IsValid(): // no longer configured, or not told from its twin on another link
		s.blame.Named(now, c.Peer)
	default:
		if given == nil {
			held := s.blame.Held(now, configured)
			given = slices.DeleteFunc(configured, func(a netip.Addr) bool { _, ok := held[a]; return ok })
		}
		s.blame.Unnamed(now, given)
	}
	s.status.Crashes = s.blame.Crashes
	held := s.blame.Held(now, addresses(s.want.config))
	s.mu.Unlock()
	s.log.Error("the speaker process crashed", "reason", c.Reason, "peer", culprit, "peers_at_the_time", given, "crashes", s.Status().Crashes)
	for a, h := range held {
		s.log.Error("peer held down", "peer", a, "until", h.Until.Format(time.DateTime), "why", heldReason(h))
	}
	if err := s.saveBlame(); err != nil {
		s.log.Warn("peers held down will be tried again when the agent restarts", "error", err)
	}
}

// addresses are those of the peers that the speaker can be given: nobody is to rely on one that has to be found first.
func addresses(c *Config) []netip.Addr {
	if c == nil {
		return nil
	}
	var out []netip.Addr
	for _, p := range c.found() {
		out = append(out, p.Address)
	}
	return out
}

// match finds a peer that GoBGP names with or without its zone; zero if there is none, or not exactly one.
func match(a netip.Addr, configured []netip.Addr) netip.Addr {
	if slices.Contains(configured, a) {
		return a
	}
	var found netip.Addr
	for _, c := range configured {
		if a.IsValid() && c.WithZone("") == a.WithZone("") {
			if found.IsValid() {
				return netip.Addr{}
			}
			found = c
		}
	}
	return found
}

// admissible is the configuration with the peers that are held down pending, the least suspicious first. It has the session
// look again when the next of them may return.
func (s *session) admissible(c Config) Config {
	now := time.Now()
	s.mu.Lock()
	order := addresses(&c)
	held := s.blame.Held(now, order)
	s.blame.Sort(order)
	s.mu.Unlock()
	s.release.Stop()
	var next time.Time
	for _, h := range held {
		if next.IsZero() || h.Until.Before(next) {
			next = h.Until
		}
	}
	if !next.IsZero() {
		s.release.Reset(next.Sub(now))
	}
	found, waiting := c.split()
	slices.SortStableFunc(found, func(a, b Peer) int { return slices.Index(order, a.Address) - slices.Index(order, b.Address) })
	for i, p := range found {
		if h, ok := held[p.Address]; ok {
			found[i].Pending = heldReason(h)
		}
	}
	c.Peers = slices.Concat(found, waiting)
	return c
}

// expected are the peers whose End-of-RIB completes the routes: all but those proven guilty. One on trial may be back within
// the deadline, and what it announced stays until then. So does everything where nobody is left to tell anything.
func (s *Speaker) expected(c Config) []Peer {
	s.mu.Lock()
	held := s.blame.Held(time.Now(), addresses(&c))
	s.mu.Unlock()
	all := c.expected()
	innocent := slices.DeleteFunc(slices.Clone(all), func(p Peer) bool { h, ok := held[p.Address]; return ok && h.Suspects == 0 })
	if len(innocent) == 0 {
		return all
	}
	return innocent
}

// Release lets a peer come back that is held down after it crashed the speaker. If it does so again it is held for longer. A
// peer that is not held is left alone.
func (s *Speaker) Release(peer netip.Addr) error {
	s.mu.Lock()
	_, err := configured(s.want.config, peer)
	held := err == nil && s.blame.Release(time.Now(), peer)
	s.mu.Unlock()
	if !held {
		return err
	}
	s.log.Warn("peer released that was held down", "peer", peer)
	s.poke()
	if err := s.saveBlame(); err != nil {
		return fmt.Errorf("release of peer %s: it would be held down again if the agent restarted: %w", peer, err)
	}
	return nil
}

// markHeld says which peers are held down, and why.
func (s *Speaker) markHeld(list []PeerStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.blame.Held(time.Now(), addresses(s.want.config))
	for i := range list {
		if h, ok := held[list[i].Address]; ok {
			list[i].State, list[i].LastDown, list[i].LastDownAt = StateHeld, heldReason(h), s.blame.Last
		} else if c := s.want.config; c != nil && c.Shutdown != "" && list[i].State != StateEstablished {
			list[i].LastDown = "shut down here: " + c.Shutdown // whatever the peer has answered to it
		}
	}
}

func heldReason(h blame.Hold) string {
	until := h.Until.Format(time.TimeOnly)
	times := fmt.Sprintf("%d times", h.Deaths)
	if h.Deaths == 1 {
		times = "once"
	}
	if h.Suspects > 0 {
		return fmt.Sprintf("held down until %s to find out which of %d peers it is: the speaker process died %s on the messages of one", until, h.Suspects, times)
	}
	return fmt.Sprintf("held down until %s after the speaker process died %s on its messages", until, times)
}
