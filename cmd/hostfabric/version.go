package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
)

// version is set by the linker (-X main.version=...).
var version = "dev"

const gobgpModule = "github.com/osrg/gobgp/v3"

func newVersionCommand() *cobra.Command {
	format := outputTable
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			msg, err := structpb.NewStruct(map[string]any{"version": version, "go": runtime.Version(), "gobgp": moduleVersion(gobgpModule)})
			if err != nil {
				return fmt.Errorf("version: %w", err)
			}
			return print(cmd.OutOrStdout(), format, msg, func(p *printer) {
				p.row(text("hostfabric"), text(version))
				p.row(text("gobgp"), text(moduleVersion(gobgpModule)))
				p.row(text("go"), text(runtime.Version()))
			})
		},
	}
	addOutputFlag(cmd, &format)
	return cmd
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "unknown"
}
