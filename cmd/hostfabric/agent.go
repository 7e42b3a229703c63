package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent/cni"
	"github.com/hostfabric/hostfabric/agent/config"
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
	defer ignoreHangup(log)()
	r, err := newRooms(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer r.close()
	f, err := listenFronts(cfg, log)
	if err != nil {
		return err
	}
	// The last step that can fail, and the first that shows on the host's interfaces.
	_, host := r.blocks.Own()
	if err := endpoint.SetHostAddresses(host); err != nil {
		return errors.Join(err, f.close())
	}
	err = serve(ctx, cfg, r, f, externalSpeaker, log)
	notify(log, daemon.SdNotifyStopping)
	return err
}

// serve runs the front-ends until ctx ends and the rooms behind them for as long as a request may need them.
func serve(ctx context.Context, cfg *config.Config, r *rooms, f *fronts, externalSpeaker bool, log *slog.Logger) error {
	roomsCtx, stopRooms := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRooms()
	behind, roomsCtx := errgroup.WithContext(roomsCtx)
	if err := r.run(roomsCtx, behind, externalSpeaker); err != nil {
		return errors.Join(err, f.close())
	}

	front, ctx := errgroup.WithContext(ctx)
	front.Go(func() error { return r.agent.Run(ctx) })
	front.Go(func() error { return rpc.Serve(ctx, f.api, r.agent, log) })
	front.Go(func() error {
		return cni.Serve(ctx, f.cni, cni.Options{Endpoints: r.agent, Spool: cfg.CNISpool(), Log: log.With("room", "cni")})
	})
	if l := cfg.Metrics.Listen; !l.IsZero() {
		front.Go(func() error { return telemetry.Run(ctx, l.Network, l.Address, r.agent, log) })
	}
	front.Go(func() error {
		select {
		case <-r.agent.Restored():
			notify(log, daemon.SdNotifyReady)
			log.Info("ready", "host", cfg.Host, "api", cfg.APISocket(), "cni", cfg.CNISocket())
		case <-ctx.Done():
		}
		return nil
	})
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

func newLogger(c config.Log) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

// ignoreHangup keeps a SIGHUP, which many send for a reload, from ending a process that containers depend on. The
// returned function lets it through again.
func ignoreHangup(log *slog.Logger) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-hangups:
				log.Warn("SIGHUP is ignored: this version does not reload, restart the process to apply a new configuration")
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(hangups); close(done) }
}
