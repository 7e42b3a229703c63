package main

import (
	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

func newDownCommand() *cobra.Command {
	var shape fabric.Shape
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a fabric and everything that lives in it, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fabric.EnsurePrivileges(); err != nil {
				return err
			}
			return fabric.Down(cmd.Context(), shape)
		},
	}
	addNameFlag(cmd, &shape)
	return cmd
}
