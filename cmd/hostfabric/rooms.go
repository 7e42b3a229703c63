package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/dns"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/failover"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/hosts"
	"github.com/hostfabric/hostfabric/agent/notes"
	"github.com/hostfabric/hostfabric/agent/resolver"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/agent/sysctl"
	"github.com/hostfabric/hostfabric/agent/unnumbered"
	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

// rooms are what the agent is made of, joined.
type rooms struct {
	cfg     *config.Config                // as it was at the start
	running atomic.Pointer[config.Config] // as it is by reloads since
	files   configFile
	log     *slog.Logger
	level   *slog.LevelVar
	id      netip.Addr // router ID at the start

	reloading sync.Mutex // one reload at a time
	telling   sync.Mutex // see tellHosts

	ledger   agent.Ledger    // of all who are told what happens
	kept     *history.Ledger // of these, the one that keeps; nil: nothing is kept
	export   *exporter       // nil: events are sent to nobody
	sessions *sessionLog

	leases  *ipam.Allocator
	source  *blockSource
	fib     *kernel.FIB
	table   *routes.Table
	wirer   *endpoint.Wirer
	uplinks *uplink.Watch
	links   *uplink.Links
	guard   *firewall.Firewall
	over    *failover.Failover
	bfd     *bfdFeed
	routers *unnumbered.Watch
	hosts   *hosts.Directory
	learner *agent.Learner
	speaker *bgp.Speaker
	feed    *speakerFeed
	drain   agent.DrainRecord
	blocks  *blocks.Keeper
	names   *dns.Zone
	agent   *agent.Agent
	dns     *dns.Server
	notice  *resolver.Notice

	descriptions  *notes.Store[agent.Description]
	holds         *notes.Store[sandbox.Hold]
	sandboxMounts *sandbox.Mounts
	sandboxes     *sandbox.Pool
}

// newRooms prepares the host and builds the rooms; none of them runs yet. The lease file comes first: its lock keeps a
// second agent from touching anything.
func newRooms(ctx context.Context, file configFile, log *slog.Logger, level *slog.LevelVar) (_ *rooms, err error) {
	cfg := file.config
	r := &rooms{cfg: cfg, files: file, log: log, level: level}
	r.notice = resolver.NewNotice(cfg.ResolvConf(), containerDomain(cfg), cfg.DNS.Zone)
	r.running.Store(cfg)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.leases, err = openLeases(cfg, log); err != nil {
		return nil, err
	}
	if err := r.openEvents(cfg, log); err != nil {
		return nil, err
	}
	if r.source, err = newBlockSource(cfg, log); err != nil {
		return nil, err
	}
	if r.drain, err = agent.LoadDrain(cfg.DrainFile()); err != nil {
		return nil, err
	}
	if cfg.ManageSysctls {
		if err := sysctl.EnableForwarding(cfg.Families()); err != nil {
			return nil, err
		}
	}
	if r.id, err = routerID(cfg); err != nil {
		return nil, err
	}
	if r.fib, err = kernel.New(kernel.Options{Protocol: kernel.Protocol, Log: log.With("room", "kernel")}); err != nil {
		return nil, err
	}
	r.table = routes.NewTable(r.fib, routes.Options{
		Log: log.With("room", "routes"), Resync: cfg.Routes.Resync,
		SyncDeadline: cfg.GracefulRestart.RestartTime, // as long as the ToRs keep ours
	})
	if r.wirer, err = endpoint.New(endpoint.Options{Log: log.With("room", "endpoint")}); err != nil {
		return nil, err
	}
	r.hosts = newHosts(cfg, r.source)
	r.learner = &agent.Learner{Table: r.table, Marked: r.hosts.Learned}
	r.learner.SetMetric(cfg.Routes.Metric)
	r.feed = &speakerFeed{cfg: cfg, routerID: r.id, changed: make(chan struct{}, 1), links: uplinks{}, log: log, sessions: r.drain.Sessions()}
	if r.routers, err = unnumbered.New(peerInterfaces(cfg), unnumbered.Options{
		Log: log.With("room", "unnumbered"), Changed: r.feed.routersChanged, File: filepath.Join(cfg.RunDir, "routers.json"),
	}); err != nil {
		return nil, err
	}
	r.sessions = newSessionLog(r.ledger, history.SessionUp, history.SessionDown)
	r.speaker = newSpeaker(cfg, r.learner, r.session, r.announced, r.hosts, log)
	r.over = failover.New(r.fib, r.speaker, log.With("room", "failover"))
	r.bfd = newBFDFeed(ctx, cfg, r.over, r.drain, newSessionLog(r.ledger, history.BFDUp, history.BFDDown), log)
	if r.links, err = uplink.NewLinks(nil, uplink.LinkEvents{
		Down: func(peer netip.Addr, link string) { r.over.PathDown(peer, "link "+link+" is down") },
	}, log.With("room", "uplink")); err != nil {
		return nil, err
	}
	r.feed.speaker, r.feed.routers, r.feed.given = r.speaker, r.routers, r.watchPaths
	r.blocks = blocks.New(r.blockOptions(), r.leases, r.table, r.speaker)
	if err := r.blocks.Load(ctx); err != nil {
		return nil, err
	}
	own, host := r.blocks.Own()
	r.learner.SetHostAddresses(host)
	r.tellHosts()
	if err := r.feed.setOwn(ctx, own); err != nil {
		return nil, err
	}
	r.uplinks = uplink.NewWatch(peerAddresses(cfg))
	if r.guard, err = firewall.New(firewallPolicy(cfg), own, log.With("room", "firewall")); err != nil {
		return nil, err
	}
	if r.descriptions, err = notes.Open[agent.Description](cfg.EndpointNotes(), log.With("room", "notes")); err != nil {
		return nil, err
	}
	r.names = dns.NewZone()
	r.agent = agent.New(r.agentOptions(), r.leases, r.blocks, r.wirer, r.table, r.speaker)
	r.dns = r.newDNS()
	if r.sandboxes, err = r.newSandboxes(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *rooms) newSandboxes() (_ *sandbox.Pool, err error) {
	if r.holds, err = notes.Open[sandbox.Hold](r.cfg.SandboxHolds(), r.log.With("room", "notes")); err != nil {
		return nil, err
	}
	if r.sandboxMounts, err = sandbox.NewMounts(r.cfg.SandboxDir()); err != nil {
		return nil, err
	}
	return sandbox.New(sandbox.Options{Settings: sandbox.Settings(r.cfg.Sandboxes), Ledger: r.ledger, Log: r.log.With("room", "sandbox")},
		r.agent, r.sandboxMounts, r.holds), nil
}

// watchPaths has the paths to the peers watched that the speaker was given.
func (r *rooms) watchPaths(ctx context.Context, cfg *config.Config, peers []bgp.Peer) error {
	var found []netip.Addr
	for _, p := range peers {
		if p.Pending == "" {
			found = append(found, p.Address)
		}
	}
	r.hosts.SetPeers(found, len(peers)-len(found))
	r.links.SetPeers(found)
	r.over.SetPeers(found)
	r.sessions.keep(found)
	return r.bfd.set(ctx, cfg, peers)
}

// run starts the rooms in g. With external, somebody else starts the speaker and BFD.
func (r *rooms) run(ctx context.Context, g *errgroup.Group, external bool) error {
	g.Go(func() error { return r.table.Run(ctx) })
	g.Go(func() error { return r.wirer.Run(ctx) })
	g.Go(func() error { return r.uplinks.Run(ctx) })
	g.Go(func() error { return r.speaker.Run(ctx) })
	g.Go(func() error { return r.routers.Run(ctx) })
	g.Go(func() error { return r.feed.followUplinks(ctx) })
	g.Go(func() error { return r.over.Run(ctx) })
	g.Go(func() error { return r.links.Run(ctx) })
	g.Go(func() error { return r.guard.Run(ctx) })
	g.Go(func() error { return r.bfd.run(ctx, r.cfg, external, r.log) })
	r.runHosts(ctx, g)
	if external {
		return nil
	}
	argv, err := speakerArgv(r.cfg)
	if err != nil {
		return err
	}
	g.Go(func() error {
		return supervisor.Run(ctx, supervisor.Options{Name: "speaker", Socket: r.cfg.SpeakerSocket(), Argv: argv, Log: r.log})
	})
	g.Go(func() error { return replaceOldSpeaker(ctx, r.speaker, r.log) })
	return nil
}

// close releases what newRooms opened. Containers, routes and sessions stay.
func (r *rooms) close() {
	var errs []error
	if r.sandboxMounts != nil {
		errs = append(errs, r.sandboxMounts.Close())
	}
	if r.holds != nil {
		errs = append(errs, r.holds.Close())
	}
	if r.descriptions != nil {
		errs = append(errs, r.descriptions.Close())
	}
	if r.routers != nil {
		errs = append(errs, r.routers.Close())
	}
	if r.links != nil {
		errs = append(errs, r.links.Close())
	}
	if r.guard != nil {
		errs = append(errs, r.guard.Close())
	}
	if r.wirer != nil {
		errs = append(errs, r.wirer.Close())
	}
	if r.fib != nil {
		errs = append(errs, r.fib.Close())
	}
	if r.source != nil {
		errs = append(errs, r.source.close())
	}
	if r.leases != nil {
		errs = append(errs, r.leases.Close())
	}
	if r.export != nil {
		errs = append(errs, r.export.close())
	}
	if r.kept != nil { // the last one: all others may have something to tell
		errs = append(errs, r.kept.Close())
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Warn("not closed cleanly", "err", err)
	}
}

// fronts are the listeners of the front-ends.
type fronts struct {
	api, cni net.Listener
	docker   net.Listener // nil unless it is enabled
}

func listenFronts(cfg *config.Config, log *slog.Logger) (_ *fronts, err error) {
	f := &fronts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.api, err = listenUnix(cfg.APISocket(), 0o660, groupID(cfg.API.Group, log)); err != nil {
		return nil, err
	}
	if f.cni, err = listenUnix(cfg.CNISocket(), 0o600, -1); err != nil {
		return nil, err
	}
	if !cfg.Docker.Enabled {
		return f, nil
	}
	if f.docker, err = listenUnix(cfg.Docker.Socket, 0o600, -1); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *fronts) close() error {
	var errs []error
	for _, l := range []net.Listener{f.api, f.cni, f.docker} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

func openLeases(cfg *config.Config, log *slog.Logger) (*ipam.Allocator, error) {
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	quarantine := cfg.IPAM.Quarantine
	if quarantine == 0 {
		quarantine = -1 // none; 0 is ipam's default
	}
	return ipam.Open(cfg.LeaseFile(), ipam.Options{Quarantine: quarantine, Fsync: cfg.IPAM.Fsync, Log: log.With("room", "ipam")})
}

func largeCommunities(cfg *config.Config) []bgp.LargeCommunity {
	var list []bgp.LargeCommunity
	for _, l := range cfg.Announce.LargeCommunities {
		list = append(list, bgp.LargeCommunity(l))
	}
	return list
}

// blockSettings are what of the configuration a reload changes for the blocks.
func blockSettings(cfg *config.Config) blocks.Settings {
	return blocks.Settings{
		Configured: configuredBlocks(cfg), Reserved: cfg.Reserved, Budget: blocks.Budget(cfg.Budget),
		MaxBlocks: cfg.IPAM.MaxBlocks, ShrinkAfter: cfg.IPAM.ShrinkAfter, Settle: cfg.IPAM.Settle, Health: blocks.Health(cfg.Health),
		Communities: cfg.Announce.Communities, LargeCommunities: largeCommunities(cfg),
	}
}

func (r *rooms) blockOptions() blocks.Options {
	return blocks.Options{
		Settings: blockSettings(r.cfg), Source: r.source.Source, Record: r.cfg.BlockRecord(), HostAddress: r.cfg.HostAddress,
		Gate: func() error {
			if err := sysctl.CheckForwarding(r.running.Load().Families()); err != nil {
				return err
			}
			return agent.CheckRoutes(r.table)
		},
		Occupant: func(ctx context.Context, block netip.Prefix) (string, error) {
			_, host := r.blocks.Own()
			return agent.Occupant(ctx, r.wirer, block, host)
		},
		Mark: r.mark, Follow: r.follow, Ledger: r.ledger, Log: r.log.With("room", "blocks"),
	}
}

// follow tells everybody who must know the blocks and the host's own addresses that they have changed. An address that goes
// stays until no route prefers it any more: the kernel would take these along.
func (r *rooms) follow(ctx context.Context, own []netip.Prefix, host []netip.Addr) error {
	if before := r.learner.HostAddresses(); !slices.Equal(before, host) {
		if err := endpoint.SetHostAddresses(slices.Concat(before, host)); err != nil {
			return err
		}
		r.learner.SetHostAddresses(host)
		if err := r.table.WaitIdle(ctx); err != nil {
			return err
		}
		if err := endpoint.SetHostAddresses(host); err != nil {
			return err
		}
	}
	r.dns.SetBlocks(own, host)
	r.guard.SetBlocks(own)
	r.tellHosts()
	r.tellOfServers(host)
	return r.feed.setOwn(ctx, own)
}

func (r *rooms) agentOptions() agent.Options {
	return agent.Options{
		Host: r.cfg.Host, Version: version,
		Live: func() agent.Live {
			cfg := r.running.Load()
			return agent.Live{ASN: cfg.ASN, RouterID: r.routerID(cfg), Budget: blocks.Budget(cfg.Budget), Settle: cfg.IPAM.Settle}
		},
		MTU: func() int {
			if mtu := r.running.Load().MTU; mtu != 0 {
				return mtu
			}
			return r.uplinks.Found().MTU
		},
		Reloader: r, Registry: r.source.roster, Reconcile: r.cfg.IPAM.Reconcile, Notes: r.descriptions, Ledger: r.ledger, Log: r.log,
		DrainFile: r.cfg.DrainFile(), Drain: r.drain, Sessions: r.feed.setSessions, OnDrain: r.bfd.drained,
		BFD: r.bfd.status, Dead: r.over.Dead, Links: r.linkProblems, Firewall: r.guard,
		Names: r.names, DNS: func() agent.DNSStatus { return r.dns.Status() },
	}
}

func peerAddresses(cfg *config.Config) []netip.Addr {
	addrs := make([]netip.Addr, len(cfg.Peers))
	for i, p := range cfg.Peers {
		addrs[i] = p.Address
		if p.Interface != "" {
			addrs[i] = onLink(p.Interface)
		}
	}
	return addrs
}

func peerInterfaces(cfg *config.Config) []string {
	var links []string
	for _, p := range cfg.Peers {
		if p.Interface != "" {
			links = append(links, p.Interface)
		}
	}
	return links
}
