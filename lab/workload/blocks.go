package workload

import (
	"context"
	"fmt"
	"net/netip"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
)

// HostBlocks are the blocks that a host has now, as its agent says.
func (w *Hosts) HostBlocks(ctx context.Context, name string) ([]netip.Prefix, error) {
	client, err := w.Client(name)
	if err != nil {
		return nil, err
	}
	resp, err := client.ListBlocks(ctx, &apiv1.ListBlocksRequest{})
	if err != nil {
		return nil, fmt.Errorf("blocks of %s: %w", name, err)
	}
	var all []netip.Prefix
	for _, b := range resp.GetBlocks() {
		p, err := netip.ParsePrefix(b.GetPrefix())
		if err != nil {
			return nil, fmt.Errorf("blocks of %s: answer: %w", name, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// prefixes are what others should learn of the host: its planned blocks or, if it claims its blocks, what it announces now.
func (h host) prefixes(ctx context.Context) ([]netip.Prefix, error) {
	if h.shape.Source == fabric.Static {
		return h.Blocks, nil
	}
	return fabric.Announced(ctx, h.client)
}
