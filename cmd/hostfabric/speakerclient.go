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
	"github.com/hostfabric/hostfabric/agent/unnumbered"
	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
)

// newSpeaker is the client of the speaker process; what it learns goes to the learner, what becomes of the sessions to session, and of
// the announcements to announced.
func newSpeaker(cfg *config.Config, learner *agent.Learner, session func(bgp.PeerStatus), announced func(added, withdrawn []netip.Prefix), log *slog.Logger) *bgp.Speaker {
	events := learner.Events()
	events.Peer, events.Announced = session, announced
	marker := warmMarker(filepath.Join(cfg.RunDir, "announced"))
	events.Status = func(s bgp.Status) { marker.set(s, log) }
	return bgp.New(bgp.Options{
		Socket: cfg.SpeakerSocket(), Log: log.With("room", "bgp"), Events: events, WarmRestart: marker.warm,
		BlameFile: filepath.Join(cfg.RunDir, "blame.json"),
	})
}

// speakerConfig is the BGP state this host wants, with the uplinks and the routers found on them as they are now. own are its
// blocks.
func speakerConfig(cfg *config.Config, routerID netip.Addr, own []netip.Prefix, router func(link string) unnumbered.Router, links uplinks) bgp.Config {
	out := bgp.Config{
		ASN: cfg.ASN, RouterID: routerID, Listen: cfg.BGP.Listen, ListenPort: cfg.BGP.Port, Multipath: cfg.BGP.Multipath,
		GracefulRestart: bgp.GracefulRestart{
			Disabled: !cfg.GracefulRestart.Enabled, RestartTime: cfg.GracefulRestart.RestartTime, Deferral: cfg.GracefulRestart.Deferral,
			LongLived: cfg.GracefulRestart.LongLived,
		},
	}
	policy := bgp.HostPolicy{OwnSpace: own}
	for _, r := range cfg.ImportRules() {
		policy.Import = append(policy.Import, bgp.ImportRule(r))
	}
	out.Policy = policy
	for _, p := range cfg.Peers {
		peer := bgp.Peer{
			Address: p.Address, ASN: p.ASN, LocalAS: p.LocalAS, Description: p.Name, Password: string(p.Password), TTLSecurity: p.TTLSecurity,
			Passive: p.Passive, HoldTime: p.Timers.Hold, Keepalive: p.Timers.Keepalive, ConnectRetry: p.Timers.ConnectRetry,
			Communities: bgp.Communities(p.SendCommunities), MaxPrefixes: p.MaxPrefixes, MaxPrefixesRestart: p.MaxPrefixesRestart,
			LocalAddress: p.LocalAddress,
		}
		if p.Interface != "" {
			peer.Address, peer.Pending = found(p.Interface, router(p.Interface))
		} else {
			peer.NextHop6 = links.nextHop6(p.Address)
		}
		if peer.Pending == "" {
			peer.Subnets = links.subnets(peer.Address)
		}
		out.Peers = append(out.Peers, peer)
	}
	for _, s := range cfg.BGP.BMP {
		out.Stations = append(out.Stations, bgp.Station{Address: s.Address, View: bgp.StationView(s.Policy)})
	}
	out.Dump = bgp.Dump(cfg.BGP.MRT)
	return out
}

// found is where the peer on an interface is, or why that is not known.
func found(link string, r unnumbered.Router) (addr netip.Addr, pending string) {
	if !r.Addr.IsValid() {
		return onLink(link), r.Problem
	}
	return r.Addr, ""
}

// onLink stands for the peer on an interface before its address is known: it names the interface.
func onLink(link string) netip.Addr { return netip.MustParseAddr("fe80::").WithZone(link) }

// uplinks are the links to the peers, as last found. One that is down has no route that leads to it, and comes back: what is
// known of it stays, or every flap would have GoBGP judge all routes twice.
type uplinks map[netip.Addr]uplink.Link

func (u uplinks) to(peer netip.Addr) uplink.Link {
	if link, err := uplink.To(peer); err == nil && len(link.Addresses) > 0 {
		slices.SortFunc(link.Addresses, netip.Prefix.Compare)
		u[peer] = link
	}
	return u[peer] // none: not up yet; followUplinks looks again
}

// nextHop6 is the next hop of our IPv6 prefixes on an IPv4 session: our address on its link. Zero while there is none.
func (u uplinks) nextHop6(peer netip.Addr) netip.Addr {
	if !peer.Is4() {
		return netip.Addr{}
	}
	return u.to(peer).GlobalIPv6()
}

// subnets are what a peer may name next hops in. Of one whose link is not there yet, or that is not on a link of this host, it
// is the peer itself.
func (u uplinks) subnets(peer netip.Addr) []netip.Prefix {
	if link := u.to(peer); len(link.Addresses) > 0 {
		return link.Addresses
	}
	return []netip.Prefix{netip.PrefixFrom(peer.WithZone(""), peer.BitLen())}
}

// speakerFeed keeps the speaker's configuration true as blocks and uplinks change.
type speakerFeed struct {
	cfg      *config.Config
	routerID netip.Addr
	speaker  *bgp.Speaker
	routers  *unnumbered.Watch
	changed  chan struct{} // of size 1: a router was found, replaced or lost
	// given is told the peers that the speaker was given, in the order of the configuration.
	given func(ctx context.Context, cfg *config.Config, peers []bgp.Peer) error
	log   *slog.Logger

	mu    sync.Mutex // guards what follows, cfg and routerID, and keeps changes in order
	own   []netip.Prefix
	have  bgp.Config // as last given
	links uplinks
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
	return f.have, f.wanted(cfg, routerID)
}

// setSessions has the sessions be as a drain wants them.
func (f *speakerFeed) setSessions(ctx context.Context, s agent.Sessions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions = s
	return f.configure(ctx)
}

// wanted is what a configuration comes to for the speaker now. Caller holds mu.
func (f *speakerFeed) wanted(cfg *config.Config, routerID netip.Addr) bgp.Config {
	c := speakerConfig(cfg, routerID, f.own, f.routers.Router, f.links)
	c.Leave, c.Shutdown = f.sessions.Leave, f.sessions.Shutdown
	return c
}

// configure gives the speaker the configuration as it is now. Caller holds mu.
func (f *speakerFeed) configure(ctx context.Context) error {
	want := f.wanted(f.cfg, f.routerID)
	if err := f.speaker.Configure(ctx, want); err != nil && !errors.Is(err, bgp.ErrDisconnected) {
		return err
	}
	f.have = want
	return f.given(ctx, f.cfg, want.Peers)
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
		case <-f.changed:
		}
		f.lookAtUplinks(ctx)
	}
}

// routersChanged has followUplinks look now.
func (f *speakerFeed) routersChanged() {
	select {
	case f.changed <- struct{}{}:
	default: // it will look anyway
	}
}

func (f *speakerFeed) lookAtUplinks(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := f.wanted(f.cfg, f.routerID)
	same := func(x, y bgp.Peer) bool {
		return x.NextHop6 == y.NextHop6 && x.Address == y.Address && x.Pending == y.Pending && slices.Equal(x.Subnets, y.Subnets)
	}
	if slices.EqualFunc(want.Peers, f.have.Peers, same) {
		return
	}
	if err := f.configure(ctx); err != nil {
		f.log.Warn("changed uplinks not accepted by the speaker, will be retried", "err", err)
		return
	}
	f.log.Info("uplinks changed: the speaker has the new next hops and peers")
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
	inspect := "" // no listener
	if l := cfg.BGP.Inspect; !l.IsZero() {
		inspect = l.String()
	}
	return companionArgv(cfg, "speaker", cfg.SpeakerSocket(), "--inspect", inspect)
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
		if !s.Connected || !s.Synced || s.Version == version || runsWhatIsOnDisk(s.PID) {
			continue
		}
		log.Info("replacing a speaker of another version", "pid", s.PID, "its_version", s.Version, "our_version", version)
		if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end speaker process %d: %w", s.PID, err)
		}
	}
}
