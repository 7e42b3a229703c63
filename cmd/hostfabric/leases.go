package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newLeasesCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ListLeasesRequest{}
	var minAge, maxAge time.Duration
	cmd := &cobra.Command{
		Use:     "leases",
		Short:   "List leased and quarantined addresses",
		Example: "  hostfabric leases --pool web --min-age 24h\n  hostfabric leases --address 10.64.0.0/28",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("min-age") {
				req.MinAge = durationpb.New(minAge)
			}
			if cmd.Flags().Changed("max-age") {
				req.MaxAge = durationpb.New(maxAge)
			}
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListLeasesResponse, error) {
				return c.ListLeases(ctx, req)
			}
			return call(cmd, o, ask, printLeases)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.ContainerId, "container", "", "only this container ID")
	cmd.Flags().StringVar(&req.Address, "address", "", "only this address, or those inside this prefix")
	cmd.Flags().StringVar(&req.Pool, "pool", "", "only addresses of this pool")
	cmd.Flags().DurationVar(&minAge, "min-age", 0, "only what was leased, or freed, at least this long ago")
	cmd.Flags().DurationVar(&maxAge, "max-age", 0, "only what was leased, or freed, at most this long ago")
	return cmd
}

func printLeases(r *apiv1.ListLeasesResponse, p *printer) {
	p.header("ADDRESS", "CONTAINER", "INTERFACE", "STATE", "LINK", "AGE", "POOL", "BLOCK")
	for _, l := range r.GetLeases() {
		since := ""
		if l.GetAllocated() != nil {
			since = age(l.GetAllocated().AsTime())
		}
		p.row(text(l.GetAddress()), text(dash(l.GetContainerId())), text(dash(l.GetInterface())), text(l.GetState()),
			text(dash(l.GetHostInterface())), text(dash(since)), text(dash(l.GetPool())), text(dash(l.GetBlock())))
	}
}
