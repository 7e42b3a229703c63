package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/demo"
	"github.com/hostfabric/hostfabric/lab/fabric"
)

func newDemoCommand() *cobra.Command {
	o := &shapeOptions{}
	var opts demo.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Build a fabric, show that it works, remove it",
		Long: `Build a fabric, attach containers, and report: what the ToRs' tables hold, whether every container reaches every
other host's containers, whether a container's name answers in another rack for just as long as it lives, and who it was
afterwards, what attaching and detaching costs the fabric in BGP UPDATEs, and what is lost when one ToR
of each rack is killed. Exits non-zero if any of these is not as it should be.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fabric.EnsurePrivileges(); err != nil {
				return err
			}
			fab, cleanup, err := o.options(cmd.Context())
			if err != nil {
				return err
			}
			defer cleanup()
			opts.Fabric = fab
			opts.Progress = progressPrinter(cmd.ErrOrStderr())
			report, err := demo.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			} else {
				report.Print(cmd.OutOrStdout())
			}
			if err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
			if !report.OK {
				return errNotOK
			}
			return nil
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().IntVar(&opts.Cycles, "cycles", 1000, "attach/detach cycles")
	cmd.Flags().BoolVar(&opts.Keep, "keep", false, "leave the lab standing, to look around")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object on stdout")
	return cmd
}
