package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/workload"
)

func newUpCommand() *cobra.Command {
	o := &shapeOptions{}
	var source string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build a fabric and leave it standing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fabric.EnsurePrivileges(); err != nil {
				return err
			}
			o.shape.Source = fabric.Source(source)
			opts, cleanup, err := o.options(cmd.Context())
			if err != nil {
				return err
			}
			defer cleanup()
			progress := progressPrinter(cmd.ErrOrStderr())
			lab, err := fabric.Up(cmd.Context(), opts, progress)
			if err != nil {
				return err
			}
			hosts, err := workload.Dial(lab)
			if err != nil {
				return err
			}
			defer hosts.Close()
			if err := hosts.AwaitRoutes(cmd.Context(), func(done, total int) {
				progress(fabric.Progress{Step: "converged hosts", Done: done, Total: total})
			}); err != nil {
				return err
			}
			if _, err := hosts.AttachAll(cmd.Context(), func(done, total int) {
				progress(fabric.Progress{Step: "attached containers", Done: done, Total: total})
			}); err != nil {
				return fmt.Errorf("%w (the lab stands; remove it with `hostfabric-lab down --name %s`)", err, lab.Plan.Name)
			}
			return printLab(cmd.Context(), cmd.OutOrStdout(), lab)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&source, "source", string(fabric.Static), "where hosts get their blocks from: static, etcd")
	return cmd
}
