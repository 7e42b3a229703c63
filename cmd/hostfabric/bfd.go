package main

import (
	"log/slog"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/bgp/bfd"
)

type bfdOptions struct {
	server bfd.ServerOptions
	level  slog.Level
}

func (o *bfdOptions) AddFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&o.server.Socket, "socket", defaultBFDSocket, "private unix socket for the agent, full rights")
	fs.StringVar(&o.server.User, "user", "hostfabric", "whom to become when started as root")
	fs.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
}

func newBFDCommand() *cobra.Command {
	o := &bfdOptions{}
	cmd := &cobra.Command{
		Use:   "bfd",
		Short: "Run BFD (the agent starts it where systemd does not)",
		Long: `Run BFD (RFC 5880, RFC 5881) in a process of its own, without privileges. It does nothing until an agent tells it the peers
through its private socket, keeps its sessions while agent and speaker are away, and on SIGTERM tells its peers AdminDown: that
the end is planned.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.server.Version = version
			o.server.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.level})).With("process", "bfd")
			defer ignoreHangup(o.server.Log)()
			o.server.Ready = func() { notify(o.server.Log, daemon.SdNotifyReady) }
			return bfd.Serve(cmd.Context(), o.server)
		},
	}
	o.AddFlags(cmd)
	cmd.AddCommand(newStopCommand("bfd", defaultBFDSocket, `End BFD. Its peers are told AdminDown. An agent that still runs starts another process.`))
	return cmd
}
