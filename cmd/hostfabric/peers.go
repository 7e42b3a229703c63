package main

import (
	"context"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newPeersCommand() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "List the BGP sessions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListPeersResponse, error) {
				return c.ListPeers(ctx, &apiv1.ListPeersRequest{})
			}
			return call(cmd, o, ask, printPeers)
		},
	}
	o.AddFlags(cmd)
	return cmd
}

func printPeers(r *apiv1.ListPeersResponse, p *printer) {
	p.header("PEER", "NAME", "AS", "STATE", "UPTIME", "RECEIVED", "ACCEPTED", "ADVERTISED", "REASON")
	for _, n := range r.GetPeers() {
		uptime := ""
		if n.GetUptime() != nil {
			uptime = n.GetUptime().AsDuration().String()
		}
		address := n.GetAddress()
		if n.GetInterface() != "" {
			address += "%" + n.GetInterface()
		}
		p.row(text(address), text(dash(n.GetDescription())), text(n.GetAsn()), judged(n.GetState(), n.GetUptime() != nil), text(dash(uptime)),
			text(n.GetPrefixesReceived()), text(n.GetPrefixesAccepted()), text(n.GetPrefixesAdvertised()), text(dash(n.GetReason())))
	}
}
