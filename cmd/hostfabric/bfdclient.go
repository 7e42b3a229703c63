package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/failover"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// bfdFeed keeps the BFD process at the sessions that the configuration wants, and tells of paths that die. A host without any
// has no such process.
type bfdFeed struct {
	client *bfd.Client
	down   func(peer netip.Addr, cause string)
	found  func(peer netip.Addr, cause string, since time.Time) // of a path that was dead already
	wanted chan struct{}                                        // closed when the first session is wanted
	want   sync.Once
	told   *sessionLog

	mu sync.Mutex // guards up
	up map[netip.Addr]bool
}

// newBFDFeed is that of a host that is drained or not: the process may still have it otherwise from an earlier agent.
func newBFDFeed(ctx context.Context, cfg *config.Config, over *failover.Failover, drain agent.DrainRecord, told *sessionLog, log *slog.Logger) *bfdFeed {
	f := &bfdFeed{down: over.PathDown, found: over.PathFound, told: told, wanted: make(chan struct{}), up: make(map[netip.Addr]bool)}
	f.client = bfd.NewClient(bfd.ClientOptions{Socket: cfg.BFDSocket(), Log: log.With("room", "bfd"), Changed: f.changed})
	if err := f.drained(ctx, drain.Stage == agent.Drained, ""); err != nil {
		log.Warn("BFD process not told whether the host is drained, it will be when it is connected again", "err", err)
	}
	return f
}

// changed follows a session. One that this agent has never seen up may have died while no agent looked.
func (f *bfdFeed) changed(s bfd.Status) {
	f.told.bfd(s)
	f.mu.Lock()
	was, known := f.up[s.Peer]
	f.up[s.Peer] = s.State == bfd.Up
	f.mu.Unlock()
	switch {
	case !s.PathFailed():
	case was:
		f.down(s.Peer, "BFD: "+s.LastDown)
	case !known:
		f.found(s.Peer, "BFD: "+s.LastDown, s.Since)
	}
}

// set makes the sessions those of the peers as the speaker has them: in the order of cfg.
func (f *bfdFeed) set(ctx context.Context, cfg *config.Config, peers []bgp.Peer) error {
	var sessions []bfd.Session
	var watched []netip.Addr
	for i, p := range cfg.Peers {
		if peer := peers[i]; p.BFD.Enabled && peer.Pending == "" {
			watched = append(watched, peer.Address)
			sessions = append(sessions, bfd.Session{
				Peer: peer.Address, Interface: peer.Address.Zone(), Local: peer.LocalAddress,
				MinTx: p.BFD.Interval, MinRx: p.BFD.Interval, Multiplier: uint8(p.BFD.Multiplier),
			})
		}
	}
	if len(sessions) > 0 {
		f.want.Do(func() { close(f.wanted) })
	}
	f.told.keep(watched)
	return f.client.Set(ctx, sessions)
}

// run keeps the process going, from the first session that is wanted on, unless somebody else starts it.
func (f *bfdFeed) run(ctx context.Context, cfg *config.Config, external bool, log *slog.Logger) error {
	select {
	case <-ctx.Done():
		return nil
	case <-f.wanted:
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	if !external {
		argv, err := companionArgv(cfg, "bfd", cfg.BFDSocket())
		if err != nil {
			return err
		}
		beside.Go(func() {
			// It returns nothing but nil.
			_ = supervisor.Run(ctx, supervisor.Options{Name: "bfd", Socket: cfg.BFDSocket(), Argv: argv, Log: log})
		})
	}
	beside.Go(func() { f.replaceOld(ctx, log) })
	return f.client.Run(ctx)
}

// replaceOld has a BFD process of another version go on as ours, with its sessions: it stays the same process, whoever started it.
func (f *bfdFeed) replaceOld(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		theirs, pid, ok := f.client.Connected()
		if !ok || theirs == version || runsWhatIsOnDisk(pid) {
			failed = false
			continue
		}
		if err := f.client.Upgrade(ctx); err != nil {
			if !failed && ctx.Err() == nil {
				log.Error("BFD process goes on with its old version, will be retried", "pid", pid, "its_version", theirs, "our_version", version, "err", err)
			}
			failed = true
			continue
		}
		log.Info("BFD process goes on as another version", "pid", pid, "its_version", theirs, "our_version", version)
	}
}

// status is the process, and its sessions as of their last change.
func (f *bfdFeed) status() agent.BFDStatus {
	select {
	case <-f.wanted:
	default:
		return agent.BFDStatus{}
	}
	b := agent.BFDStatus{Sessions: f.client.Status()}
	b.Version, b.PID, b.Connected = f.client.Connected()
	b.Wanted = len(b.Sessions) > 0 || !b.Connected
	return b
}

// drained closes the sessions of a host that leaves the fabric on purpose, or opens them again.
func (f *bfdFeed) drained(ctx context.Context, drained bool, _ string) error {
	return f.client.AdminDown(ctx, drained)
}
