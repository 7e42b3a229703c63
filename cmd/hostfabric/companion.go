package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/supervisor"
)

// newStopCommand ends a process that an agent started, where no systemd unit does. long says what follows from it.
func newStopCommand(process, standard, long string) *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "stop",
		Short: fmt.Sprintf("End the %s process of an agent that has been stopped", process),
		Long:  long,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pid, err := supervisor.ListenerPID(socket)
			if err != nil {
				return fmt.Errorf("no %s process answers on %s: %w", process, socket, err)
			}
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				return fmt.Errorf("end %s process %d: %w", process, pid, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s process %d told to end\n", process, pid)
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", standard, fmt.Sprintf("private unix socket of the %s process", process))
	return cmd
}

// companionArgv is how the agent starts a process of its own binary.
func companionArgv(cfg *config.Config, process, socket string, more ...string) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find our own binary to start the %s process with: %w", process, err)
	}
	return append([]string{filepath.Clean(exe), process, "--socket", socket, "--log-level", cfg.Log.Level.String()}, more...), nil
}
