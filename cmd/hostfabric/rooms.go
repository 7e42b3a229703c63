package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/agent/sysctl"
	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

// rooms are what the agent is made of, joined.
type rooms struct {
	cfg     *config.Config
	log     *slog.Logger
	leases  *ipam.Allocator
	fib     *kernel.FIB
	table   *routes.Table
	wirer   *endpoint.Wirer
	uplinks *uplink.Watch
	bgp     bgp.Config
	speaker *bgp.Speaker
	agent   *agent.Agent
}

// newRooms prepares the host and builds the rooms; none of them runs yet. The lease file comes first: its lock keeps a
// second agent from touching anything.
func newRooms(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *rooms, err error) {
	r := &rooms{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.leases, err = openLeases(ctx, cfg, log); err != nil {
		return nil, err
	}
	if cfg.ManageSysctls {
		if err := sysctl.EnableForwarding(cfg.Families()); err != nil {
			return nil, err
		}
	}
	id, err := routerID(cfg)
	if err != nil {
		return nil, err
	}
	r.bgp = speakerConfig(cfg, id)
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
	r.speaker = newSpeaker(cfg, r.table, log)
	if err := r.speaker.Configure(ctx, r.bgp); err != nil {
		return nil, err
	}
	r.uplinks = uplink.NewWatch(peerAddresses(cfg))
	r.agent = agent.New(agentOptions(cfg, id, r.uplinks, log), r.leases, r.wirer, r.table, r.speaker)
	return r, nil
}

// run starts the rooms in g.
func (r *rooms) run(ctx context.Context, g *errgroup.Group, externalSpeaker bool) error {
	g.Go(func() error { return r.table.Run(ctx) })
	g.Go(func() error { return r.wirer.Run(ctx) })
	g.Go(func() error { return r.uplinks.Run(ctx) })
	g.Go(func() error { return r.speaker.Run(ctx) })
	g.Go(func() error { return followUplinks(ctx, r.cfg, r.bgp, r.speaker, r.log) })
	if externalSpeaker {
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
	if r.wirer != nil {
		errs = append(errs, r.wirer.Close())
	}
	if r.fib != nil {
		errs = append(errs, r.fib.Close())
	}
	if r.leases != nil {
		errs = append(errs, r.leases.Close())
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Warn("not closed cleanly", "err", err)
	}
}

// fronts are the listeners of the front-ends.
type fronts struct {
	api, cni net.Listener
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
	return f, nil
}

func (f *fronts) close() error {
	var errs []error
	for _, l := range []net.Listener{f.api, f.cni} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

func openLeases(ctx context.Context, cfg *config.Config, log *slog.Logger) (*ipam.Allocator, error) {
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	quarantine := cfg.IPAM.Quarantine
	if quarantine == 0 {
		quarantine = -1 // none; 0 is ipam's default
	}
	leases, err := ipam.Open(cfg.LeaseFile(), ipam.Options{Quarantine: quarantine, Fsync: cfg.IPAM.Fsync, Log: log.With("room", "ipam")})
	if err != nil {
		return nil, err
	}
	own := make([]ipam.Block, len(cfg.Blocks))
	for i, p := range cfg.BlockPrefixes() {
		own[i].Prefix = p
		for _, addr := range cfg.HostAddresses() {
			if p.Contains(addr) {
				own[i].Reserved = append(own[i].Reserved, ipam.Range{First: addr, Last: addr})
			}
		}
	}
	blocks, err := static.New(own).Blocks(ctx)
	if err == nil {
		err = leases.SetBlocks(blocks)
	}
	if err != nil {
		return nil, errors.Join(err, leases.Close())
	}
	return leases, nil
}

func agentOptions(cfg *config.Config, routerID netip.Addr, uplinks *uplink.Watch, log *slog.Logger) agent.Options {
	ipv4, ipv6 := cfg.Families()
	return agent.Options{
		Host: cfg.Host, Version: version, ASN: cfg.ASN, RouterID: routerID, Blocks: cfg.BlockPrefixes(),
		MTU: func() int {
			if cfg.MTU != 0 {
				return cfg.MTU
			}
			return uplinks.MTU()
		},
		Forwarding: func() error { return sysctl.CheckForwarding(ipv4, ipv6) },
		Budget:     agent.Budget{IPv4: cfg.Budget.IPv4, IPv6: cfg.Budget.IPv6},
		Log:        log,
	}
}

func peerAddresses(cfg *config.Config) []netip.Addr {
	addrs := make([]netip.Addr, len(cfg.Peers))
	for i, p := range cfg.Peers {
		addrs[i] = p.Address
	}
	return addrs
}
