package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/bgp/bfd"
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
	cmd.AddCommand(newPeersResetCommand())
	return cmd
}

// asn is an AS number, or what the peer's may be before it is known.
func asn(n uint32) string {
	if n == 0 {
		return config.PeerASExternal
	}
	return strconv.FormatUint(uint64(n), 10)
}

func printPeers(r *apiv1.ListPeersResponse, p *printer) {
	p.header("PEER", "NAME", "AS", "STATE", "UPTIME", "BFD", "RECEIVED", "ACCEPTED", "REFUSED", "ADVERTISED", "REASON")
	for _, n := range r.GetPeers() {
		uptime := ""
		if n.GetUptime() != nil {
			uptime = n.GetUptime().AsDuration().String()
		}
		address := n.GetAddress()
		if n.GetInterface() != "" {
			address += "%" + n.GetInterface()
		}
		p.row(text(address), text(dash(n.GetDescription())), text(asn(n.GetAsn())), judged(n.GetState(), n.GetUptime() != nil), text(dash(uptime)), bfdCell(n.GetBfd()),
			text(n.GetPrefixesReceived()), text(n.GetPrefixesAccepted()), refusedCell(n), text(n.GetPrefixesAdvertised()), text(dash(n.GetReason())))
	}
}

// refusedCell counts what is refused of a peer. Not to accept what nobody asked for is usual; our own space is not.
func refusedCell(n *apiv1.Peer) cell {
	for _, c := range n.GetRefusedCounts() {
		if c.GetReason() == "own_space" {
			return cell{fmt.Sprintf("%d, own space!", n.GetPrefixesRefused()), bad}
		}
	}
	return text(n.GetPrefixesRefused())
}

func bfdCell(b *apiv1.BFDSession) cell {
	if b == nil {
		return text("-")
	}
	return judged(b.GetState(), b.GetState() == bfd.Up.String())
}
