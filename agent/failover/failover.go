// Package failover takes the next hops of a router that is known to be dead out of the kernel's groups, before BGP has
// noticed, and puts them back when the router has told its routes anew.
package failover

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// FIB is the kernel's next hops; kernel.FIB is the real one.
type FIB interface {
	// Suspend takes next hops out of every group, or puts them back. A zone restricts an address to that link.
	Suspend(suspended bool, hops ...netip.Addr) error
}

// Speaker is the BGP side; bgp.Speaker is the real one.
type Speaker interface {
	// Reset ends the session with a peer whose path is dead, and drops its routes.
	Reset(ctx context.Context, peer netip.Addr, reason string) error
	Peers(ctx context.Context) ([]bgp.PeerStatus, error)
	// NextHops are those that a peer has named.
	NextHops(peer netip.Addr) []netip.Addr
}

const (
	// look is how often it is looked whether a router is back.
	look = 100 * time.Millisecond
	// resetWait bounds one attempt to end a session.
	resetWait = 5 * time.Second
	// silent is how long a session may be up without an End-of-RIB before its routes are taken to be all there are.
	silent = 5 * time.Second
)

// Dead is a router whose next hops are out of use.
type Dead struct {
	Peer  netip.Addr
	Cause string
	Since time.Time
}

// Failover is safe for concurrent use.
type Failover struct {
	fib     FIB
	speaker Speaker
	log     *slog.Logger
	events  chan func()
	ended   chan struct{} // closed when Run has ended

	// Owned by Run.
	configured []netip.Addr // as last set; nil: not yet
	asking     bool         // the speaker has been asked for the peers

	mu    sync.Mutex // guards what follows; Run alone changes it
	peers map[netip.Addr]*peer
	count uint64 // of deaths
}

// peer is what is known of a router. All but what Dead shows is Run's own.
type peer struct {
	up        time.Time // when the session was seen to come up; zero: it is down
	session   time.Time // since when it is up, by the speaker
	heard     bool      // the state of the session has been told
	found     *finding  // to be judged when it is
	dead      bool
	cause     string
	since     time.Time
	hops      []netip.Addr // suspended
	lost      bool         // the session has gone since the router died
	resetting bool
	retry     time.Time // no attempt to end the session before
}

// finding is a path that was dead already when it was first looked at.
type finding struct {
	cause string
	since time.Time
}

// New makes a Failover that acts once Run runs.
func New(fib FIB, speaker Speaker, log *slog.Logger) *Failover {
	return &Failover{fib: fib, speaker: speaker, log: log, events: make(chan func(), 64), ended: make(chan struct{}), peers: make(map[netip.Addr]*peer)}
}

// PathDown says that packets no longer reach a peer, with the cause for people. Its next hops leave the kernel at once, then its
// session is ended. A peer that is not configured is none of its business.
func (f *Failover) PathDown(addr netip.Addr, cause string) {
	f.send(func() {
		if f.configured != nil && !slices.Contains(f.configured, addr) {
			return
		}
		p := f.peer(addr)
		switch {
		case !p.dead:
			f.suspend(addr, p, cause)
		case p.lost && !p.up.IsZero(): // it died again before it was back: this session is no better than the one before
			f.mu.Lock()
			p.cause, p.since = cause, time.Now()
			f.mu.Unlock()
			p.lost, p.resetting, p.retry = false, false, time.Time{}
		}
	})
}

// PathFound says that the path to a peer was dead when it was first looked at, and since when. It is PathDown for a session of
// before that: one that has come up since has found another way, or the path is not dead to it.
func (f *Failover) PathFound(addr netip.Addr, cause string, since time.Time) {
	f.send(func() {
		if f.configured != nil && !slices.Contains(f.configured, addr) {
			return
		}
		p := f.peer(addr)
		p.found = &finding{cause, since}
		f.judge(addr, p)
	})
}

// judge follows up what was found of a path as soon as its session is known.
func (f *Failover) judge(addr netip.Addr, p *peer) {
	if p.found == nil || !p.heard {
		return
	}
	if !p.dead && !p.up.IsZero() && p.session.Before(p.found.since) {
		f.suspend(addr, p, p.found.cause)
	}
	p.found = nil
}

// holdExpired is how bgp words the end of a session whose peer fell silent (RFC 4271 section 6.5).
const holdExpired = "hold timer"

// Session takes in the state of a session, see bgp.Events. A peer that fell silent is taken for dead if there is another one to
// go through: a router that restarts its BGP closes the session or comes back, and forwards meanwhile.
func (f *Failover) Session(s bgp.PeerStatus) {
	f.send(func() {
		p := f.peer(s.Address)
		wasUp := !p.up.IsZero()
		p.heard = true
		if s.State == bgp.StateEstablished {
			if wasUp && s.Since.After(p.session) { // the one before went unseen, as with a speaker that was restarted
				p.lost, p.resetting = true, false
			}
			p.up, p.session = time.Now(), s.Since
			f.judge(s.Address, p)
			return
		}
		p.up, p.lost, p.resetting, p.found = time.Time{}, true, false, nil
		if wasUp && !p.dead && strings.Contains(strings.ToLower(s.LastDown), holdExpired) && f.another(s.Address) {
			f.suspend(s.Address, p, s.LastDown)
		}
	})
}

// SetPeers forgets routers that are no longer configured.
func (f *Failover) SetPeers(addrs []netip.Addr) {
	f.send(func() {
		f.configured = append([]netip.Addr{}, addrs...)
		for addr, p := range f.peers {
			if slices.Contains(addrs, addr) {
				continue
			}
			if p.dead {
				f.restore(addr, p)
			}
			f.mu.Lock()
			delete(f.peers, addr)
			f.mu.Unlock()
		}
	})
}

// Dead lists the routers whose next hops are out of use, by address.
func (f *Failover) Dead() []Dead {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []Dead
	for addr, p := range f.peers {
		if p.dead {
			list = append(list, Dead{addr, p.cause, p.since})
		}
	}
	slices.SortFunc(list, func(a, b Dead) int { return a.Peer.Compare(b.Peer) })
	return list
}

// Count is how often a router was found dead.
func (f *Failover) Count() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func (f *Failover) send(event func()) {
	select {
	case f.events <- event:
	case <-f.ended:
	}
}

// Run acts until ctx ends. What is suspended then stays so until the next agent knows better.
func (f *Failover) Run(ctx context.Context) error {
	var asked sync.WaitGroup // of the speaker, which may be slow to answer
	defer asked.Wait()
	defer close(f.ended)
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-f.events:
			event()
		case <-tick.C:
			f.share()
			f.ask(ctx, &asked)
		}
		f.reset(ctx, &asked)
	}
}

func (f *Failover) peer(addr netip.Addr) *peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.peers[addr]
	if p == nil {
		p = &peer{}
		f.peers[addr] = p
	}
	return p
}

// another says whether there is a living router besides addr.
func (f *Failover) another(addr netip.Addr) bool {
	for a, p := range f.peers {
		if a != addr && !p.dead && !p.up.IsZero() {
			return true
		}
	}
	return false
}

// hopsOf are the next hops that stand and fall with a peer: its own address, and what else it names unless that is another's,
// or a living peer names it too: on a link with both, a router may pass on what the other has named.
func (f *Failover) hopsOf(addr netip.Addr) []netip.Addr {
	hops := []netip.Addr{addr}
	living := f.living(addr)
	for _, h := range f.speaker.NextHops(addr) {
		if _, others := f.peers[h]; h != addr && !others && !living[h] {
			hops = append(hops, h)
		}
	}
	return hops
}

// living are the next hops that peers name which are not dead, but for one.
func (f *Failover) living(but netip.Addr) map[netip.Addr]bool {
	named := make(map[netip.Addr]bool)
	for addr, p := range f.peers {
		if addr == but || p.dead {
			continue
		}
		for _, h := range f.speaker.NextHops(addr) {
			named[h] = true
		}
	}
	return named
}

// share puts those next hops of the dead back that the living have come to name.
func (f *Failover) share() {
	for addr, p := range f.peers {
		if !p.dead || len(p.hops) == 1 {
			continue
		}
		living := f.living(addr)
		shared := func(h netip.Addr) bool { return h != addr && living[h] }
		back := slices.DeleteFunc(slices.Clone(p.hops), func(h netip.Addr) bool { return !shared(h) })
		if len(back) == 0 {
			continue
		}
		if err := f.fib.Suspend(false, back...); err != nil {
			f.log.Error("next hops not put back, will be retried", "peer", addr, "next_hops", back, "err", err)
			continue
		}
		p.hops = slices.DeleteFunc(p.hops, shared)
		f.log.Info("next hops of a dead router are in use again: a living one names them", "peer", addr, "next_hops", back)
	}
}

func (f *Failover) suspend(addr netip.Addr, p *peer, cause string) {
	hops := f.hopsOf(addr)
	began := time.Now()
	err := f.fib.Suspend(true, hops...)
	f.mu.Lock()
	p.dead, p.cause, p.since, p.hops = true, cause, began, hops
	f.count++
	f.mu.Unlock()
	p.lost, p.resetting, p.retry = p.heard && p.up.IsZero(), false, time.Time{}
	f.log.Warn("router is dead: its next hops are out of use", "peer", addr, "cause", cause, "next_hops", hops, "took", time.Since(began), "err", err)
}

func (f *Failover) restore(addr netip.Addr, p *peer) {
	if err := f.fib.Suspend(false, p.hops...); err != nil {
		f.log.Error("next hops not put back, will be retried", "peer", addr, "err", err)
		return
	}
	f.mu.Lock()
	p.dead = false
	f.mu.Unlock()
	f.log.Info("router is back: its next hops are in use again", "peer", addr, "after", time.Since(p.since))
}

// reset ends the sessions of routers that died while theirs was up. An attempt that fails is repeated until the session is gone.
func (f *Failover) reset(ctx context.Context, asked *sync.WaitGroup) {
	for addr, p := range f.peers {
		if !p.dead || p.lost || p.resetting || time.Now().Before(p.retry) {
			continue
		}
		p.resetting = true
		cause := p.cause
		asked.Go(func() {
			limited, cancel := context.WithTimeout(ctx, resetWait)
			err := f.speaker.Reset(limited, addr, cause)
			cancel()
			if err != nil && ctx.Err() == nil && !errors.Is(err, bgp.ErrDisconnected) {
				f.log.Warn("session of a dead router not ended, will be retried", "peer", addr, "err", err)
			}
			f.send(func() {
				switch {
				case err != nil:
					p.resetting, p.retry = false, time.Now().Add(look)
				case p.up.IsZero(): // there was none
					p.lost, p.resetting = true, false
				} // else it is over when the session is seen to go
			})
		})
	}
}

// ask asks the speaker how far the routers are that have a session again.
func (f *Failover) ask(ctx context.Context, asked *sync.WaitGroup) {
	waiting := false
	for _, p := range f.peers {
		waiting = waiting || p.returning()
	}
	if !waiting || f.asking {
		return
	}
	f.asking = true
	began := time.Now()
	asked.Go(func() {
		list, err := f.speaker.Peers(ctx)
		f.send(func() {
			f.asking = false
			if err == nil { // else the speaker is away: asked again
				f.recover(list, began)
			}
		})
	})
}

// returning says that a dead router has a session of after its death.
func (p *peer) returning() bool { return p.dead && p.lost && !p.up.IsZero() }

// recover puts the next hops of those routers back that have told all their routes in a session of after their death, by what
// the speaker was asked for at some time.
func (f *Failover) recover(list []bgp.PeerStatus, asked time.Time) {
	for _, s := range list {
		p := f.peers[s.Address]
		if p == nil || !p.returning() || p.up.After(asked) || s.State != bgp.StateEstablished {
			continue
		}
		if complete(s) || time.Since(p.up) > silent {
			f.restore(s.Address, p)
		}
	}
}

// complete says whether a peer has told all its routes.
func complete(s bgp.PeerStatus) bool {
	return len(s.Families) > 0 && !slices.ContainsFunc(s.Families, func(f bgp.FamilyStatus) bool { return f.Spoken && !f.EndOfRIB })
}
