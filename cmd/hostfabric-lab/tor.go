package main

import (
	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/tor"
)

// newTorCommand is the process of an embedded router; the lab starts it inside the router's namespace.
func newTorCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:    "tor",
		Short:  "Run an embedded router",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return tor.RunEmbedded(cmd.Context(), file) },
	}
	cmd.Flags().StringVar(&file, "config", "", "written by the lab")
	return cmd
}
