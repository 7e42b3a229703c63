package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostfabric/hostfabric/bgp/server"
)

// version is set by the linker (-X main.version=...).
var version = "dev"

func newVersionCommand() *cobra.Command {
	format := outputTable
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			msg, err := structpb.NewStruct(map[string]any{"version": version, "go": runtime.Version(), "gobgp": server.LibraryVersion()})
			if err != nil {
				return fmt.Errorf("version: %w", err)
			}
			return print(cmd.OutOrStdout(), format, msg, func(p *printer) {
				p.row(text("hostfabric"), text(version))
				p.row(text("gobgp"), text(server.LibraryVersion()))
				p.row(text("go"), text(runtime.Version()))
			})
		},
	}
	addOutputFlag(cmd, &format)
	return cmd
}
