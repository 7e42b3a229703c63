package ipam

import "context"

// Source supplies the blocks this host owns.
type Source interface {
	Name() string
	// Blocks returns the whole set as it is now.
	Blocks(ctx context.Context) ([]Block, error)
	// Watch returns hints that the set may have changed: on each, ask Blocks. The channel is closed when ctx ends.
	Watch(ctx context.Context) (<-chan struct{}, error)
}
