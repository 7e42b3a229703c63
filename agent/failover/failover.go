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

	mu    sync.Mutex // guards what follows; Run alone changes it
	peers map[netip.Addr]*peer
}

// peer is what is known of a router. All but what Dead shows is Run's own.
type peer struct {
	up        time.Time // when the session came up; zero: it is down
	dead      bool
	cause     string
	since     time.Time
	hops      []netip.Addr // suspended
	lost      bool         // the session has gone since the router died
	resetting bool
	retry     time.Time // no attempt to end the session before
}

// New makes a Failover that acts once Run runs.
func New(fib FIB, speaker Speaker, log *slog.Logger) *Failover {
	return &Failover{fib: fib, speaker: speaker, log: log, events: make(chan func(), 64), ended: make(chan struct{}), peers: make(map[netip.Addr]*peer)}
}

// PathDown says that packets no longer reach a peer, with the cause for people. Its next hops leave the kernel at once, then its
// session is ended.
func (f *Failover) PathDown(addr netip.Addr, cause string) {
	f.send(func() {
		p := f.peer(addr)
		if !p.dead {
			f.suspend(addr, p, cause)
		}
	})
}

// holdExpired is how bgp words the end of a session whose peer fell silent (RFC 4271 section 6.5).
const holdExpired = "hold timer"

// Session takes in the state of a session, see bgp.Events. A peer that fell silent is taken for dead if there is another one to
// go through: a router that restarts its BGP closes the session or comes back, and forwards meanwhile.
func (f *Failover) Session(s bgp.PeerStatus) {
	f.send(func() {
		p := f.peer(s.Address)
		if s.State == bgp.StateEstablished {
			p.up = time.Now()
			return
		}
		wasUp := !p.up.IsZero()
		p.up, p.lost, p.resetting = time.Time{}, true, false
		if wasUp && !p.dead && strings.Contains(strings.ToLower(s.LastDown), holdExpired) && f.another(s.Address) {
			f.suspend(s.Address, p, s.LastDown)
		}
	})
}

// SetPeers forgets routers that are no longer configured.
func (f *Failover) SetPeers(addrs []netip.Addr) {
	f.send(func() {
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

func (f *Failover) send(event func()) {
	select {
	case f.events <- event:
	case <-f.ended:
	}
}

// Run acts until ctx ends. What is suspended then stays so until the next agent knows better.
func (f *Failover) Run(ctx context.Context) error {
	var resets sync.WaitGroup
	defer resets.Wait()
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
			f.recover(ctx)
		}
		f.reset(ctx, &resets)
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

// hopsOf are the next hops that stand and fall with a peer: its own address, and what else it names unless that is another's.
func (f *Failover) hopsOf(addr netip.Addr) []netip.Addr {
	hops := []netip.Addr{addr}
	for _, h := range f.speaker.NextHops(addr) {
		if _, others := f.peers[h]; h != addr && !others {
			hops = append(hops, h)
		}
	}
	return hops
}

func (f *Failover) suspend(addr netip.Addr, p *peer, cause string) {
	hops := f.hopsOf(addr)
	began := time.Now()
	err := f.fib.Suspend(true, hops...)
	f.mu.Lock()
	p.dead, p.cause, p.since, p.hops = true, cause, began, hops
	f.mu.Unlock()
	p.lost = p.up.IsZero()
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
func (f *Failover) reset(ctx context.Context, resets *sync.WaitGroup) {
	for addr, p := range f.peers {
		if !p.dead || p.lost || p.resetting || time.Now().Before(p.retry) {
			continue
		}
		p.resetting = true
		cause := p.cause
		resets.Go(func() {
			limited, cancel := context.WithTimeout(ctx, resetWait)
			err := f.speaker.Reset(limited, addr, cause)
			cancel()
			if err != nil && ctx.Err() == nil && !errors.Is(err, bgp.ErrDisconnected) {
				f.log.Warn("session of a dead router not ended, will be retried", "peer", addr, "err", err)
			}
			if err != nil { // else it is over when the session is seen to go
				f.send(func() { p.resetting, p.retry = false, time.Now().Add(look) })
			}
		})
	}
}

// recover puts the next hops of those routers back that have told all their routes in a session of after their death.
func (f *Failover) recover(ctx context.Context) {
	waiting := false
	for _, p := range f.peers {
		waiting = waiting || p.dead && p.lost && !p.up.IsZero()
	}
	if !waiting {
		return
	}
	list, err := f.speaker.Peers(ctx)
	if err != nil {
		return // the speaker is away: asked again
	}
	for _, s := range list {
		p := f.peers[s.Address]
		if p == nil || !p.dead || !p.lost || p.up.IsZero() || s.State != bgp.StateEstablished {
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
