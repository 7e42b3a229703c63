package main

import (
	"context"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newBlocksCommand() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "blocks",
		Short: "List this host's address blocks and their use",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListBlocksResponse, error) {
				return c.ListBlocks(ctx, &apiv1.ListBlocksRequest{})
			}
			return call(cmd, o, ask, printBlocks)
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func printBlocks(r *apiv1.ListBlocksResponse, p *printer) {
	p.header("BLOCK", "SOURCE", "SIZE", "LEASED", "QUARANTINED", "RESERVED", "FREE", "COVER", "ANNOUNCED")
	for _, b := range r.GetBlocks() {
		announced := judged("yes", true)
		if !b.GetAnnounced() {
			announced = judged("no", false)
		}
		p.row(text(b.GetPrefix()), text(b.GetSource()), text(b.GetSize()), text(b.GetLeased()), text(b.GetQuarantined()), text(b.GetReserved()),
			text(b.GetFree()), text(dash(b.GetCover())), announced)
	}
}
