package main

import (
	"context"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newDetachCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.DetachRequest{}
	cmd := &cobra.Command{
		Use:   "detach CONTAINER-ID",
		Short: "Take a container off the fabric",
		Args:  exactArgs("CONTAINER-ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ContainerId = args[0]
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.DetachResponse, error) {
				return c.Detach(ctx, req)
			}
			return call(cmd, o, ask, func(r *apiv1.DetachResponse, p *printer) {
				if r.GetFound() {
					p.row(text(req.GetContainerId() + "/" + req.GetInterface() + " detached"))
				} else {
					p.row(text(req.GetContainerId() + "/" + req.GetInterface() + " was not attached"))
				}
			})
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Interface, "interface", "eth0", "name inside the container")
	return cmd
}
