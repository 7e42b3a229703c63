package main

import (
	"log/slog"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/bgp/server"
)

// speakerOptions are the speaker's flags; those that were not given come from the configuration, if one is named.
type speakerOptions struct {
	server server.Options
	config string
	level  slog.Level
}

func (o *speakerOptions) AddFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&o.config, "config", "c", "", "configuration file to take socket, inspect and log-level from")
	fs.StringVar(&o.server.Socket, "socket", defaultSpeakerSocket, "private unix socket for the agent, full rights")
	fs.StringSliceVar(&o.server.Inspect, "inspect", []string{"127.0.0.1:50051"}, "read-only listeners for the gobgp CLI: address:port or unix:///path")
	fs.StringVar(&o.server.User, "user", "hostfabric", "whom to become when started as root")
	fs.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
}

func newSpeakerCommand() *cobra.Command {
	o := &speakerOptions{}
	cmd := &cobra.Command{
		Use:   "speaker",
		Short: "Run the BGP speaker (the agent starts it where systemd does not)",
		Long: `Run the BGP speaker: GoBGP in a process of its own, without privileges. It does nothing until an agent configures it
through its private socket, keeps its sessions while the agent is away, and on SIGTERM ends without a CEASE so that
peers keep this host's routes under graceful restart. The --inspect listeners serve the gobgp CLI, read only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(cmd); err != nil {
				return err
			}
			o.server.Version = version
			o.server.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.level})).With("process", "speaker")
			defer ignoreHangup(o.server.Log)()
			o.server.Ready = func() { notify(o.server.Log, daemon.SdNotifyReady) }
			return server.Run(cmd.Context(), o.server)
		},
	}
	o.AddFlags(cmd)
	cmd.AddCommand(newStopCommand("speaker", defaultSpeakerSocket, `End the speaker. Its peers keep this host's routes for the graceful restart time, 120 s unless configured. An agent that
still runs starts another speaker.`))
	return cmd
}

func (o *speakerOptions) complete(cmd *cobra.Command) error {
	if o.config == "" {
		return nil
	}
	// The passwords come from the agent: the speaker's user need not be able to read them.
	cfg, err := config.LoadWithoutSecrets(o.config, nil)
	if err != nil {
		return err
	}
	given := cmd.Flags().Changed
	if !given("socket") {
		o.server.Socket = cfg.SpeakerSocket()
	}
	if !given("inspect") {
		o.server.Inspect = nil
		if !cfg.BGP.Inspect.IsZero() {
			o.server.Inspect = []string{cfg.BGP.Inspect.String()}
		}
	}
	if !given("log-level") {
		o.level = cfg.Log.Level
	}
	return nil
}

// notify tells systemd, where it listens.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd not notified", "state", state, "err", err)
	}
}
