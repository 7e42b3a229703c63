package main

import (
	"context"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newLeasesCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ListLeasesRequest{}
	cmd := &cobra.Command{
		Use:   "leases",
		Short: "List leased and quarantined addresses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListLeasesResponse, error) {
				return c.ListLeases(ctx, req)
			}
			return call(cmd, o, ask, printLeases)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.ContainerId, "container", "", "only this container ID")
	cmd.Flags().StringVar(&req.Address, "address", "", "only this address")
	return cmd
}

func printLeases(r *apiv1.ListLeasesResponse, p *printer) {
	p.header("ADDRESS", "CONTAINER", "INTERFACE", "STATE", "LINK", "AGE", "BLOCK")
	for _, l := range r.GetLeases() {
		since := ""
		if l.GetAllocated() != nil {
			since = age(l.GetAllocated().AsTime())
		}
		p.row(text(l.GetAddress()), text(dash(l.GetContainerId())), text(dash(l.GetInterface())), text(l.GetState()),
			text(dash(l.GetHostInterface())), text(dash(since)), text(dash(l.GetBlock())))
	}
}
