// Package static is the source of blocks that are written in the host's configuration.
package static

import (
	"context"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// Source is a fixed set of blocks.
type Source struct{ blocks []ipam.Block }

var _ ipam.Source = (*Source)(nil)

// New returns a source of the given blocks, with its name on them.
func New(blocks []ipam.Block) *Source {
	s := &Source{blocks: clone(blocks)}
	for i := range s.blocks {
		s.blocks[i].Source = s.Name()
	}
	return s
}

func clone(blocks []ipam.Block) []ipam.Block {
	own := slices.Clone(blocks)
	for i := range own {
		own[i].Reserved = slices.Clone(own[i].Reserved)
	}
	return own
}

// Name is how blocks of this source are labelled.
func (s *Source) Name() string { return "static" }

// Blocks returns the configured blocks.
func (s *Source) Blocks(context.Context) ([]ipam.Block, error) {
	return clone(s.blocks), nil
}

// Watch returns a channel on which nothing ever comes; it is closed when ctx ends.
func (s *Source) Watch(ctx context.Context) (<-chan struct{}, error) {
	hints := make(chan struct{})
	context.AfterFunc(ctx, func() { close(hints) })
	return hints, nil
}
