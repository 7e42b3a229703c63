package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/ipam"
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
	cmd.AddCommand(newBlocksReleaseCommand(), newBlocksClaimsCommand())
	return cmd
}

func printBlocks(r *apiv1.ListBlocksResponse, p *printer) {
	p.header("BLOCK", "POOL", "SOURCE", "STATE", "SIZE", "LEASED", "QUARANTINED", "RESERVED", "IN-USE", "FREE", "SIBLING", "COVER", "ANNOUNCED")
	for _, b := range r.GetBlocks() {
		announced := judged("yes", true)
		if !b.GetAnnounced() {
			announced = judged("no", false)
		}
		state := text(b.GetState())
		if b.GetState() == "lost" {
			state = judged(b.GetState(), false)
		}
		p.row(text(b.GetPrefix()), text(b.GetPool()), text(b.GetSource()), state, text(b.GetSize()), text(b.GetLeased()), text(b.GetQuarantined()),
			text(b.GetReserved()), text(b.GetInUse()), text(b.GetFree()), text(dash(siblingText(b))), text(dash(b.GetCover())), announced)
	}
	p.split()
	p.header("FAMILY", "PREFIXES", "BUDGET")
	for _, b := range r.GetBudgets() {
		p.row(text(b.GetFamily()), judged(b.GetPrefixes(), b.GetPrefixes() <= b.GetLimit()), text(b.GetLimit()))
	}
}

// siblingText is the sibling's prefix and who has it: what the block could grow into.
func siblingText(b *apiv1.Block) string {
	switch ipam.SiblingState(b.GetSiblingState()) {
	case ipam.SiblingFree, ipam.SiblingOwn:
		return b.GetSibling() + ":" + b.GetSiblingState()
	case ipam.SiblingTaken:
		return b.GetSibling() + ":" + b.GetSiblingHost()
	case ipam.SiblingOutside:
		return "outside"
	}
	return ""
}

func newBlocksReleaseCommand() *cobra.Command {
	o := &clientOptions{}
	req, dead := &apiv1.ReleaseBlocksRequest{}, &apiv1.ReleaseHostRequest{}
	cmd := &cobra.Command{
		Use:   "release {PREFIX... | --all | --host NAME}",
		Short: "Give claimed blocks back to their pool",
		Long: `Give claimed blocks back to their pool. Nothing more is leased from them, and each goes when its last lease has
ended: it is withdrawn from the ToRs first, and given back when no address of it rests any more. With --all this host
claims no other blocks until its agent is started again: that is for a host that leaves the fabric.

With --host the claims of another host are deleted at once. That is for a host that is gone for good: one that still
runs claims its blocks again, unless somebody else was faster.`,
		Example: "  hostfabric blocks release 10.64.0.64/26\n  hostfabric blocks release --host r1h7",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case dead.Host != "" && len(args) > 0:
				return errors.New("--host deletes all claims of that host: name no block beside it")
			case dead.Host == "" && dead.Id != "":
				return errors.New("--id goes with --host")
			}
			if dead.Host != "" {
				ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ReleaseHostResponse, error) {
					return c.ReleaseHost(ctx, dead)
				}
				return call(cmd, o, ask, func(r *apiv1.ReleaseHostResponse, p *printer) { printClaims(r.GetReleased(), p) })
			}
			req.Prefixes = args
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ReleaseBlocksResponse, error) {
				return c.ReleaseBlocks(ctx, req)
			}
			return call(cmd, o, ask, func(r *apiv1.ReleaseBlocksResponse, p *printer) {
				p.header("RELEASED")
				for _, prefix := range r.GetReleased() {
					p.row(text(prefix))
				}
			})
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().BoolVar(&req.All, "all", false, "all blocks of this host")
	cmd.Flags().StringVar(&dead.Host, "host", "", "all claims of this other host, which is gone for good")
	cmd.Flags().StringVar(&dead.Id, "id", "", "with --host: only those of this installation of it")
	cmd.MarkFlagsMutuallyExclusive("all", "host")
	return cmd
}

func newBlocksClaimsCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ListClaimsRequest{}
	cmd := &cobra.Command{
		Use:   "claims",
		Short: "List the blocks that all hosts have claimed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListClaimsResponse, error) {
				return c.ListClaims(ctx, req)
			}
			return call(cmd, o, ask, func(r *apiv1.ListClaimsResponse, p *printer) { printClaims(r.GetClaims(), p) })
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Host, "host", "", "only those of this host")
	return cmd
}

func printClaims(claims []*apiv1.Claim, p *printer) {
	p.header("BLOCK", "POOL", "HOST", "ID", "AGE")
	for _, c := range claims {
		since := ""
		if c.GetClaimed() != nil {
			since = age(c.GetClaimed().AsTime())
		}
		p.row(text(c.GetPrefix()), text(c.GetPool()), text(c.GetHost()), text(c.GetId()), text(dash(since)))
	}
}
