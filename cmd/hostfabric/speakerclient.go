package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
)

// newSpeaker is the client of the speaker process; what it learns goes to the learner.
func newSpeaker(cfg *config.Config, learner *agent.Learner, log *slog.Logger) *bgp.Speaker {
	events := learner.Events()
	marker := warmMarker(filepath.Join(cfg.RunDir, "announced"))
	events.Status = func(s bgp.Status) { marker.set(s, log) }
	return bgp.New(bgp.Options{Socket: cfg.SpeakerSocket(), Log: log.With("room", "bgp"), Events: events, WarmRestart: marker.warm})
}

// speakerConfig is the BGP state this host wants, with the uplinks as they are now. own are its blocks.
func speakerConfig(cfg *config.Config, routerID netip.Addr, own []netip.Prefix) bgp.Config {
	out := bgp.Config{
		ASN: cfg.ASN, RouterID: routerID, Listen: cfg.BGP.Listen, ListenPort: cfg.BGP.Port, Multipath: cfg.BGP.Multipath,
		GracefulRestart: bgp.GracefulRestart{
			Disabled: !cfg.GracefulRestart.Enabled, RestartTime: cfg.GracefulRestart.RestartTime, Deferral: cfg.GracefulRestart.Deferral,
		},
	}
	policy := bgp.HostPolicy{OwnSpace: own}
	for _, r := range cfg.ImportRules() {
		policy.Import = append(policy.Import, bgp.ImportRule(r))
	}
	out.Policy = policy
	for _, p := range cfg.Peers {
		out.Peers = append(out.Peers, bgp.Peer{
			Address: p.Address, ASN: p.ASN, Description: p.Name, Password: string(p.Password), TTLSecurity: p.TTLSecurity, Passive: p.Passive,
			HoldTime: cfg.Timers.Hold, Keepalive: cfg.Timers.Keepalive, ConnectRetry: cfg.Timers.ConnectRetry,
			MaxPrefixes: p.MaxPrefixes, LocalAddress: p.LocalAddress, NextHop6: nextHop6(p.Address),
		})
	}
	return out
}

// nextHop6 is the next hop of our IPv6 prefixes on an IPv4 session: our address on its link. Zero while there is none.
func nextHop6(peer netip.Addr) netip.Addr {
	if !peer.Is4() {
		return netip.Addr{}
	}
	link, err := uplink.To(peer)
	if err != nil {
		return netip.Addr{} // not up yet; followUplinks looks again
	}
	return link.GlobalIPv6()
}

// speakerFeed keeps the speaker's configuration true as blocks and uplinks change.
type speakerFeed struct {
	cfg      *config.Config
	routerID netip.Addr
	speaker  *bgp.Speaker
	log      *slog.Logger

	mu   sync.Mutex // guards what follows, cfg and routerID, and keeps changes in order
	own  []netip.Prefix
	have bgp.Config // as last given
	// sessions is how a drain wants them.
	sessions agent.Sessions
}

// setOwn has the speaker refuse whatever touches these blocks, whoever announces it.
func (f *speakerFeed) setOwn(ctx context.Context, own []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own = own
	return f.configure(ctx)
}

// setConfig goes on with another configuration.
func (f *speakerFeed) setConfig(ctx context.Context, cfg *config.Config, routerID netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cfg, f.routerID = cfg, routerID
	return f.configure(ctx)
}

// plan is the state that the speaker has, and the one that another configuration would give it.
func (f *speakerFeed) plan(cfg *config.Config, routerID netip.Addr) (have, would bgp.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	would = speakerConfig(cfg, routerID, f.own)
	would.Leave, would.Shutdown = f.sessions.Leave, f.sessions.Shutdown
	return f.have, would
}

// setSessions has the sessions be as a drain wants them.
func (f *speakerFeed) setSessions(ctx context.Context, s agent.Sessions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions = s
	return f.configure(ctx)
}

// wanted is the configuration as it is now. Caller holds mu.
func (f *speakerFeed) wanted() bgp.Config {
	c := speakerConfig(f.cfg, f.routerID, f.own)
	c.Leave, c.Shutdown = f.sessions.Leave, f.sessions.Shutdown
	return c
}

// configure gives the speaker the configuration as it is now. Caller holds mu.
func (f *speakerFeed) configure(ctx context.Context) error {
	want := f.wanted()
	if err := f.speaker.Configure(ctx, want); err != nil && !errors.Is(err, bgp.ErrDisconnected) {
		return err
	}
	f.have = want
	return nil
}

// uplinkPoll is how soon an uplink's new address is announced as a next hop.
const uplinkPoll = time.Second

// followUplinks tells the speaker when the next hops change: an agent may be up before its uplinks are.
func (f *speakerFeed) followUplinks(ctx context.Context) error {
	tick := time.NewTicker(uplinkPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.lookAtUplinks(ctx)
		}
	}
}

func (f *speakerFeed) lookAtUplinks(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := f.wanted()
	if slices.EqualFunc(want.Peers, f.have.Peers, func(x, y bgp.Peer) bool { return x.NextHop6 == y.NextHop6 }) {
		return
	}
	if err := f.configure(ctx); err != nil {
		f.log.Warn("changed uplinks not accepted by the speaker, will be retried", "err", err)
		return
	}
	f.log.Info("uplinks changed: the speaker has the new next hops")
}

// routerID is the configured BGP identifier, or the one derived at the first start: a host that gets another address
// must not reset its sessions for it. Remove the file to have it derived again.
func routerID(cfg *config.Config) (netip.Addr, error) {
	if cfg.RouterID.IsValid() {
		return cfg.RouterID, nil
	}
	file := filepath.Join(cfg.StateDir, "router-id")
	if text, err := os.ReadFile(file); err == nil {
		if id, err := netip.ParseAddr(strings.TrimSpace(string(text))); err == nil && id.Is4() {
			return id, nil
		}
	}
	id, err := uplink.RouterID(peerAddresses(cfg), cfg.ContainerSpace())
	if err != nil {
		return netip.Addr{}, err
	}
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o644); err != nil {
		return netip.Addr{}, fmt.Errorf("keep the derived router ID: %w", err)
	}
	return id, nil
}

func speakerArgv(cfg *config.Config) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find our own binary to start the speaker with: %w", err)
	}
	argv := []string{filepath.Clean(exe), "speaker", "--socket", cfg.SpeakerSocket(), "--log-level", cfg.Log.Level.String()}
	inspect := "" // no listener
	if l := cfg.BGP.Inspect; !l.IsZero() {
		inspect = l.String()
	}
	return append(argv, "--inspect", inspect), nil
}

// replaceOldSpeaker ends a speaker of another version once it is connected: the supervisor starts ours, and graceful
// restart keeps the routes meanwhile.
func replaceOldSpeaker(ctx context.Context, speaker *bgp.Speaker, log *slog.Logger) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := speaker.Status()
		if !s.Connected || !s.Synced || s.Version == version {
			continue
		}
		log.Info("replacing a speaker of another version", "pid", s.PID, "its_version", s.Version, "our_version", version)
		if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end speaker process %d: %w", s.PID, err)
		}
	}
}
