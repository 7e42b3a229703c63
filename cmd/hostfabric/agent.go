package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent/cni"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/docker"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/rpc"
	"github.com/hostfabric/hostfabric/agent/telemetry"
)

func newAgentCommand() *cobra.Command {
	o := &configOptions{}
	var externalSpeaker bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of this host",
		Long: `Run the agent: it serves attaches, keeps leases and routes, and tells the speaker what to announce. It starts the
speaker process, and the BFD process where BFD is configured, unless they run already, and leaves them running when it ends:
stopping the agent, or upgrading it, touches no container and no session. SIGHUP has it reload its configuration.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := o.open(cmd)
			if err != nil {
				return err
			}
			return runAgent(cmd.Context(), file, externalSpeaker)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().BoolVar(&externalSpeaker, "external-speaker", false, "somebody else, such as systemd, starts the speaker and BFD")
	return cmd
}

func runAgent(ctx context.Context, file configFile, externalSpeaker bool) (err error) {
	cfg := file.config
	level := &slog.LevelVar{}
	log := newLogger(cfg.Log, level)
	hangups := catchHangups()
	defer signal.Stop(hangups)
	r, err := newRooms(ctx, file, log, level)
	if err != nil {
		return err
	}
	defer r.close()
	r.began()
	defer func() { r.ended(err) }()
	f, err := listenFronts(cfg, log)
	if err != nil {
		return err
	}
	// The last step that can fail, and the first that shows on the host's interfaces.
	_, host := r.blocks.Own()
	if err := endpoint.SetHostAddresses(host); err != nil {
		return errors.Join(err, f.close())
	}
	r.tellOfServers(host)
	err = serve(ctx, cfg, r, f, externalSpeaker, hangups, log)
	notify(log, daemon.SdNotifyStopping)
	return err
}

// serve runs the front-ends until ctx ends and the rooms behind them for as long as a request may need them.
func serve(ctx context.Context, cfg *config.Config, r *rooms, f *fronts, externalSpeaker bool, hangups <-chan os.Signal, log *slog.Logger) error {
	roomsCtx, stopRooms := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRooms()
	behind, roomsCtx := errgroup.WithContext(roomsCtx)
	if err := r.run(roomsCtx, behind, externalSpeaker); err != nil {
		return errors.Join(err, f.close())
	}

	front, ctx := errgroup.WithContext(ctx)
	front.Go(func() error { return r.agent.Run(ctx) })
	front.Go(func() error { return r.sandboxes.Run(ctx) })
	front.Go(func() error { return r.dns.Run(ctx) })
	front.Go(func() error {
		return rpc.Serve(ctx, f.api, rpc.Options{Agent: r.agent, Sandboxes: r.sandboxes, Ledger: r.served(), ResolvConf: r.notice.File, Log: log})
	})
	front.Go(func() error {
		return cni.Serve(ctx, f.cni, cni.Options{Endpoints: r.agent, Resolver: r.notice.Resolver, Spool: cfg.CNISpool(), Log: log.With("room", "cni")})
	})
	if f.docker != nil {
		front.Go(func() error {
			return docker.Serve(ctx, f.docker, docker.Options{
				Endpoints: r.agent, Driver: cfg.Docker.Driver(), Record: cfg.DockerNetworks(), API: cfg.Docker.API, Ready: r.agent.Restored(),
				Look: cfg.IPAM.Reconcile, Log: log.With("room", "docker"),
			})
		})
	}
	if l := cfg.Metrics.Listen; !l.IsZero() {
		front.Go(func() error {
			return telemetry.Run(ctx, telemetry.Options{Network: l.Network, Address: l.Address, Pprof: cfg.Metrics.Pprof, Log: log}, r.metrics())
		})
	}
	front.Go(func() error {
		select {
		case <-r.agent.Restored():
			notify(log, daemon.SdNotifyReady)
			log.Info("ready", "host", cfg.Host, "api", cfg.APISocket(), "cni", cfg.CNISocket())
			debug.FreeOSMemory() // the start takes more than what follows
		case <-ctx.Done():
		}
		return nil
	})
	front.Go(func() error { return reloadOnHangup(ctx, hangups, r.agent, log) })
	front.Go(func() error {
		select {
		case <-roomsCtx.Done():
			return context.Cause(roomsCtx) // a room failed: nothing can be served without it
		case <-ctx.Done():
			return nil
		}
	})
	err := front.Wait()
	stopRooms()
	if roomErr := behind.Wait(); roomErr != nil {
		return roomErr
	}
	return err
}

// newLogger logs from level on, which is set to that of the configuration and may change later.
func newLogger(c config.Log, level *slog.LevelVar) *slog.Logger {
	level.Set(c.Level)
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

// catchHangups keeps a SIGHUP that comes before there is anything to reload from ending the process.
func catchHangups() chan os.Signal {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	return hangups
}

// ignoreHangup keeps a SIGHUP, which many send for a reload, from ending a process that has nothing to reload. The returned
// function lets it through again.
func ignoreHangup(log *slog.Logger) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-hangups:
				log.Warn("SIGHUP is ignored: this process has its configuration from the agent, have that one reload")
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(hangups); close(done) }
}
