package main

import (
	"github.com/spf13/cobra"
)

const (
	defaultConfig    = "/etc/hostfabric/hostfabric.yaml"
	defaultAPISocket = "/run/hostfabric/hostfabric.sock"

	defaultSpeakerSocket = "/run/hostfabric/speaker/gobgp.sock"
	defaultBFDSocket     = "/run/hostfabric/bfd/bfd.sock"
)

func newRootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hostfabric",
		Short: "Container networking on bare-metal hosts, routed by BGP",
		Long: `Hostfabric gives the containers of a bare-metal host addresses from the host's blocks, wires them, and announces
the blocks, never the containers, to the top-of-rack routers by BGP.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddGroup(
		&cobra.Group{ID: "process", Title: "Processes:"},
		&cobra.Group{ID: "inspect", Title: "Look at a running agent:"},
		&cobra.Group{ID: "operate", Title: "Operate this host:"},
		&cobra.Group{ID: "container", Title: "Containers:"},
		&cobra.Group{ID: "config", Title: "Configuration:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("process", newAgentCommand(), newSpeakerCommand(), newBFDCommand())
	add("inspect", newStatusCommand(), newPeersCommand(), newBlocksCommand(), newLeasesCommand(), newEndpointsCommand(), newRoutesCommand(), newExplainCommand(),
		newHistoryCommand(), newEventsCommand(), newLedgerCommand())
	add("operate", newDrainCommand(), newUndrainCommand())
	add("container", newAttachCommand(), newDetachCommand(), newSandboxCommand())
	add("config", newValidateCommand(), newPlanCommand(), newReloadCommand())
	cmd.AddCommand(newVersionCommand())
	return cmd
}
