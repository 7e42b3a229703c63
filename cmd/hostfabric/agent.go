package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/rpc"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/agent/sysctl"
	"github.com/hostfabric/hostfabric/agent/telemetry"
	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

func newAgentCommand() *cobra.Command {
	o := &configOptions{}
	var externalSpeaker bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of this host",
		Long: `Run the agent: it serves attaches, keeps leases and routes, and tells the speaker what to announce. It starts the
speaker process unless one runs already, and leaves it running when it ends: stopping the agent, or upgrading it,
touches no container and no BGP session.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load(cmd)
			if err != nil {
				return err
			}
			return runAgent(cmd.Context(), cfg, externalSpeaker)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().BoolVar(&externalSpeaker, "external-speaker", false, "somebody else, such as systemd, starts the speaker")
	return cmd
}

func runAgent(ctx context.Context, cfg *config.Config, externalSpeaker bool) error {
	log := newLogger(cfg.Log)
	leases, err := openLeases(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer leases.Close()
	if cfg.ManageSysctls {
		if err := sysctl.EnableForwarding(families(cfg)); err != nil {
			return err
		}
	}
	if err := endpoint.SetHostAddresses(cfg.HostAddresses()); err != nil {
		return err
	}
	fib, err := kernel.New(kernel.Options{Protocol: kernel.Protocol, Log: log.With("room", "kernel")})
	if err != nil {
		return err
	}
	defer fib.Close()
	bgpConfig, err := speakerConfig(cfg)
	if err != nil {
		return err
	}

	table := routes.NewTable(fib, routes.Options{
		Log: log.With("room", "routes"), Resync: cfg.Routes.Resync,
		SyncDeadline: cfg.GracefulRestart.RestartTime, // as long as the ToRs keep ours
	})
	wirer, err := endpoint.New(endpoint.Options{Log: log.With("room", "endpoint")})
	if err != nil {
		return err
	}
	defer wirer.Close()
	learner := agent.Learner{Table: table, Metric: cfg.Routes.Metric, HostAddresses: cfg.HostAddresses()}
	marker := warmMarker(filepath.Join(cfg.RunDir, "announced"))
	events := learner.Events()
	events.Status = func(s bgp.Status) { marker.set(s, log) }
	speaker := bgp.New(bgp.Options{Socket: cfg.SpeakerSocket(), Log: log.With("room", "bgp"), Events: events, WarmRestart: marker.warm})
	if err := speaker.Configure(ctx, bgpConfig); err != nil {
		return err
	}
	uplinks := uplink.NewWatch(peerAddresses(cfg))
	a := agent.New(agentOptions(cfg, bgpConfig.RouterID, uplinks, log), leases, wirer, table, speaker)

	api, err := listenUnix(cfg.APISocket(), 0o660, groupID(cfg.API.Group, log))
	if err != nil {
		return err
	}
	cniListener, err := listenUnix(cfg.CNISocket(), 0o600, -1)
	if err != nil {
		return errors.Join(err, api.Close())
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return table.Run(ctx) })
	g.Go(func() error { return wirer.Run(ctx) })
	g.Go(func() error { return uplinks.Run(ctx) })
	g.Go(func() error { return speaker.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return rpc.Serve(ctx, api, a, log) })
	g.Go(func() error {
		return cni.Serve(ctx, cniListener, cni.Options{Endpoints: a, Spool: cfg.CNISpool(), Log: log.With("room", "cni")})
	})
	g.Go(func() error {
		return telemetry.Serve(ctx, cfg.Metrics.Listen.Network, cfg.Metrics.Listen.Address, a, log)
	})
	if !externalSpeaker {
		argv, err := speakerArgv(cfg)
		if err != nil {
			return err
		}
		g.Go(func() error {
			return supervisor.Run(ctx, supervisor.Options{Name: "speaker", Socket: cfg.SpeakerSocket(), Argv: argv, Log: log})
		})
		g.Go(func() error { return replaceOldSpeaker(ctx, speaker, log) })
	}
	g.Go(func() error {
		select {
		case <-a.Restored():
			notify(log, daemon.SdNotifyReady)
			log.Info("ready", "host", cfg.Host, "api", cfg.APISocket(), "cni", cfg.CNISocket())
		case <-ctx.Done():
		}
		return nil
	})
	err = g.Wait()
	notify(log, daemon.SdNotifyStopping)
	return err
}

func newLogger(c config.Log) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
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
	blocks, err := static.New(cfg.Blocks, cfg.HostAddresses()).Blocks(ctx)
	if err == nil {
		err = leases.SetBlocks(blocks)
	}
	if err != nil {
		return nil, errors.Join(err, leases.Close())
	}
	return leases, nil
}

func agentOptions(cfg *config.Config, routerID netip.Addr, uplinks *uplink.Watch, log *slog.Logger) agent.Options {
	ipv4, ipv6 := families(cfg)
	return agent.Options{
		Host: cfg.Host, Version: version, ASN: cfg.ASN, RouterID: routerID, Blocks: cfg.Blocks,
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

func families(cfg *config.Config) (ipv4, ipv6 bool) {
	v4, v6 := cfg.BlocksByFamily()
	return len(v4) > 0, len(v6) > 0
}

func peerAddresses(cfg *config.Config) []netip.Addr {
	addrs := make([]netip.Addr, len(cfg.Peers))
	for i, p := range cfg.Peers {
		addrs[i] = p.Address
	}
	return addrs
}

// speakerConfig is the BGP state this host wants.
func speakerConfig(cfg *config.Config) (bgp.Config, error) {
	routerID := cfg.RouterID
	if !routerID.IsValid() {
		var err error
		if routerID, err = uplink.RouterID(peerAddresses(cfg), cfg.Blocks); err != nil {
			return bgp.Config{}, err
		}
	}
	out := bgp.Config{
		ASN: cfg.ASN, RouterID: routerID, Listen: cfg.BGP.Listen, ListenPort: cfg.BGP.Port, Multipath: cfg.BGP.Multipath,
		GracefulRestart: bgp.GracefulRestart{
			Disabled: !cfg.GracefulRestart.Enabled, RestartTime: cfg.GracefulRestart.RestartTime, Deferral: cfg.GracefulRestart.Deferral,
		},
	}
	policy := bgp.HostPolicy{OwnSpace: cfg.Blocks}
	for _, r := range cfg.ImportRules() {
		policy.Import = append(policy.Import, bgp.ImportRule(r))
	}
	out.Policy = policy
	for _, p := range cfg.Peers {
		peer := bgp.Peer{
			Address: p.Address, ASN: p.ASN, Description: p.Name, Password: string(p.Password), TTLSecurity: p.TTLSecurity, Passive: p.Passive,
			HoldTime: cfg.Timers.Hold, Keepalive: cfg.Timers.Keepalive, ConnectRetry: cfg.Timers.ConnectRetry, MaxPrefixes: p.MaxPrefixes, LocalAddress: p.LocalAddress,
		}
		if link, err := uplink.To(p.Address); err == nil && p.Address.Is4() {
			peer.NextHop6 = link.GlobalIPv6()
		}
		out.Peers = append(out.Peers, peer)
	}
	return out, nil
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
