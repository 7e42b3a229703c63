// Package static is the source of blocks that are written in the host's configuration.
package static

import (
	"context"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// Source is a fixed set of blocks.
type Source struct{ blocks []ipam.Block }

var _ ipam.Source = (*Source)(nil)

// New returns a source of the given prefixes. Those reserved addresses that lie in one of them are never handed out;
// the others do not concern ipam, so a caller may pass every address of the host.
func New(prefixes []netip.Prefix, reserved []netip.Addr) *Source {
	s := &Source{}
	for _, p := range prefixes {
		b := ipam.Block{Prefix: p, Source: s.Name()}
		for _, addr := range reserved {
			if addr = addr.Unmap().WithZone(""); p.Contains(addr) && !slices.Contains(b.Reserved, addr) {
				b.Reserved = append(b.Reserved, addr)
			}
		}
		s.blocks = append(s.blocks, b)
	}
	return s
}

// Name is how blocks of this source are labelled.
func (s *Source) Name() string { return "static" }

// Blocks returns the configured blocks.
func (s *Source) Blocks(context.Context) ([]ipam.Block, error) {
	blocks := slices.Clone(s.blocks)
	for i := range blocks {
		blocks[i].Reserved = slices.Clone(blocks[i].Reserved)
	}
	return blocks, nil
}

// Watch returns a channel on which nothing ever comes; it is closed when ctx ends.
func (s *Source) Watch(ctx context.Context) (<-chan struct{}, error) {
	hints := make(chan struct{})
	context.AfterFunc(ctx, func() { close(hints) })
	return hints, nil
}
