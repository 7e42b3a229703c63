package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newRoutesCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ListRoutesRequest{}
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "List the routes the agent keeps in the kernel",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListRoutesResponse, error) {
				return c.ListRoutes(ctx, req)
			}
			return call(cmd, o, ask, printRoutes)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Owner, "owner", "", "only blocks, endpoints or fabric")
	complete(cmd, "owner", "blocks", "endpoints", "fabric")
	return cmd
}

func printRoutes(r *apiv1.ListRoutesResponse, p *printer) {
	p.header("PREFIX", "OWNER", "KIND", "NEXT HOPS", "STATE", "ERROR")
	for _, rt := range r.GetRoutes() {
		p.row(text(rt.GetPrefix()), text(rt.GetOwner()), text(rt.GetKind()), text(dash(nextHops(rt.GetNextHops()))),
			judged(rt.GetState(), rt.GetState() == "installed"), text(dash(rt.GetError())))
	}
}

func nextHops(hops []*apiv1.NextHop) string {
	var out []string
	for _, h := range hops {
		switch {
		case h.GetAddress() == "":
			out = append(out, "dev "+h.GetInterface())
		case h.GetInterface() == "":
			out = append(out, "via "+h.GetAddress())
		default:
			out = append(out, "via "+h.GetAddress()+" dev "+h.GetInterface())
		}
	}
	return strings.Join(out, ", ")
}
