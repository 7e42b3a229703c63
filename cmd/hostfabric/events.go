package main

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// openEvents opens what is to be told of what happens: the ledger, and who else wants to know.
func (r *rooms) openEvents(cfg *config.Config, log *slog.Logger) (err error) {
	told := ledgers{}
	if r.kept, err = openHistory(cfg, log); err != nil {
		return err
	}
	if r.kept != nil {
		told = append(told, r.kept)
	}
	if r.export, err = startExport(cfg, log); err != nil {
		return err
	}
	if r.export != nil {
		told = append(told, r.export)
	}
	r.ledger = told
	return nil
}

// began and ended frame what a run of the agent tells.
func (r *rooms) began() {
	r.ledger.Record(history.Event{Time: time.Now(), Kind: history.Start, Detail: version})
}

func (r *rooms) ended(err error) {
	e := history.Event{Time: time.Now(), Kind: history.Stop}
	if err != nil {
		e.Error = err.Error()
	}
	r.ledger.Record(e)
}

// announced tells of what the speaker announces from now on, and of what no more.
func (r *rooms) announced(added, withdrawn []netip.Prefix) {
	tellAnnounced(r.ledger, r.blocks, added, withdrawn)
}

func tellAnnounced(ledger agent.Ledger, keeper *blocks.Keeper, added, withdrawn []netip.Prefix) {
	for _, p := range added {
		ledger.Record(history.Event{Time: time.Now(), Kind: history.Announce, Prefix: p})
	}
	for _, p := range withdrawn {
		ledger.Record(history.Event{Time: time.Now(), Kind: history.Withdraw, Prefix: p, Detail: keeper.WhyWithdrawn(p)})
	}
}

// session follows a BGP session for those who depend on it.
func (r *rooms) session(p bgp.PeerStatus) {
	if link := p.Address.Zone(); link != "" {
		r.routers.Session(link, p.State == bgp.StateEstablished)
	}
	r.sessions.bgp(p)
	r.over.Session(p)
	r.hosts.Session(p)
}

// sessionLog tells the ledger of the sessions of one kind, as they come and go. What came or went while no agent looked is not told: when
// it was is not known, or it is long ago, and the ledger is in the order of time. So a session that is older than this run is merely
// taken note of, and one that is found down was never up.
type sessionLog struct {
	ledger   agent.Ledger
	up, down history.Kind
	started  time.Time // of this run, in seconds, as GoBGP's times are

	mu sync.Mutex // guards is, and keeps the events in order
	is map[netip.Addr]bool
}

func newSessionLog(ledger agent.Ledger, up, down history.Kind) *sessionLog {
	return &sessionLog{ledger: ledger, up: up, down: down, started: time.Now().Truncate(time.Second), is: make(map[netip.Addr]bool)}
}

// see takes the state of a session, which it has had since then, and why it is down.
func (l *sessionLog) see(peer netip.Addr, up bool, since time.Time, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, known := l.is[peer]
	l.is[peer] = up
	switch {
	case up && !was && (known || !since.Before(l.started)):
		l.ledger.Record(history.Event{Time: time.Now(), Kind: l.up, Peer: peer.String()})
	case !up && was:
		l.ledger.Record(history.Event{Time: time.Now(), Kind: l.down, Peer: peer.String(), Detail: why})
	}
}

// keep forgets the sessions of all others, which are no longer configured.
func (l *sessionLog) keep(peers []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for peer, up := range l.is {
		if slices.Contains(peers, peer) {
			continue
		}
		delete(l.is, peer)
		if up {
			l.ledger.Record(history.Event{Time: time.Now(), Kind: l.down, Peer: peer.String(), Detail: "no longer configured"})
		}
	}
}

// bgp takes what the speaker tells of a session.
func (l *sessionLog) bgp(p bgp.PeerStatus) {
	l.see(p.Address, p.State == bgp.StateEstablished, p.Since, p.LastDown)
}

// bfd takes what the BFD process tells of a session.
func (l *sessionLog) bfd(s bfd.Status) { l.see(s.Peer, s.State == bfd.Up, s.Since, s.LastDown) }
