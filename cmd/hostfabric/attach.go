package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newAttachCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.AttachRequest{}
	cmd := &cobra.Command{
		Use:     "attach CONTAINER-ID NETNS-PATH",
		Short:   "Connect a container's network namespace to the fabric",
		Example: "  hostfabric attach web1 /run/netns/web1\n  hostfabric attach web1 /run/netns/web1 --address 10.64.0.7 --mtu 9000 --name web --label app=shop",
		Args:    exactArgs("CONTAINER-ID", "NETNS-PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ContainerId, req.Netns = args[0], args[1]
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.AttachResponse, error) {
				return c.Attach(ctx, req)
			}
			return call(cmd, o, ask, printAttached)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.Interface, "interface", "eth0", "name inside the container")
	cmd.Flags().StringSliceVar(&req.Addresses, "address", nil, "wanted address, one a family; empty lets the agent choose")
	cmd.Flags().StringVar(&req.Pool, "pool", "", "pool to take the addresses from; empty: the default pool, or that of --address")
	cmd.Flags().StringVar(&req.Family, "family", "", "ipv4 or ipv6: only an address of this family; empty: of all that the pool has")
	complete(cmd, "family", "ipv4", "ipv6")
	addDescriptionFlags(cmd, &req.Name, &req.Aliases, &req.Labels)
	cmd.Flags().Uint32Var(&req.Mtu, "mtu", 0, "bytes; 0 takes the uplink's")
	return cmd
}

// addDescriptionFlags adds what can be said of an endpoint.
func addDescriptionFlags(cmd *cobra.Command, name *string, aliases *[]string, labels *map[string]string) {
	cmd.Flags().StringVar(name, "name", "", "name of the endpoint, as in DNS")
	cmd.Flags().StringSliceVar(aliases, "alias", nil, "another name of the endpoint, as often as wanted")
	cmd.Flags().StringToStringVar(labels, "label", nil, "KEY=VALUE, as often as wanted")
}

func printAttached(r *apiv1.AttachResponse, p *printer) {
	ep := r.GetEndpoint()
	p.header("CONTAINER", "INTERFACE", "ADDRESSES", "GATEWAYS", "LINK", "MTU", "RESOLV-CONF")
	p.row(text(ep.GetContainerId()), text(ep.GetInterface()), text(strings.Join(ep.GetAddresses(), ",")),
		text(strings.Join(ep.GetGateways(), ",")), text(ep.GetHostInterface()), text(ep.GetMtu()), text(dash(r.GetResolvConf())))
}
