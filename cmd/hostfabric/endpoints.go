package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func newEndpointsCommand() *cobra.Command {
	o := &clientOptions{}
	req := &apiv1.ListEndpointsRequest{}
	cmd := &cobra.Command{
		Use:     "endpoints",
		Short:   "List attached containers, with their names and labels",
		Example: "  hostfabric endpoints --owner cni/pods\n  hostfabric endpoints --label app=shop -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c apiv1.HostfabricClient) (*apiv1.ListEndpointsResponse, error) {
				return c.ListEndpoints(ctx, req)
			}
			return call(cmd, o, ask, printEndpoints)
		},
	}
	o.AddFlags(cmd)
	cmd.Flags().StringVar(&req.ContainerId, "container", "", "only this container ID")
	cmd.Flags().StringVar(&req.Name, "name", "", "only those of this name or alias")
	cmd.Flags().StringVar(&req.Owner, "owner", "", "only what came by this front-end: api, sandbox, cni/NETWORK or docker/NETWORK")
	cmd.Flags().StringToStringVar(&req.Labels, "label", nil, "only those with this KEY=VALUE, and all others named")
	return cmd
}

func printEndpoints(r *apiv1.ListEndpointsResponse, p *printer) {
	p.header("CONTAINER", "INTERFACE", "NAME", "ALIASES", "ADDRESSES", "LINK", "MTU", "OWNER", "LABELS")
	for _, ep := range r.GetEndpoints() {
		p.row(text(ep.GetContainerId()), text(ep.GetInterface()), text(dash(ep.GetName())), text(dash(strings.Join(ep.GetAliases(), ","))),
			text(strings.Join(ep.GetAddresses(), ",")), text(ep.GetHostInterface()), text(ep.GetMtu()), text(ep.GetOwner()), text(dash(labelText(ep.GetLabels()))))
	}
}

// labelText gives labels the form that --label takes, in order.
func labelText(labels map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, key+"="+labels[key])
	}
	return strings.Join(all, ",")
}
