package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// unusable ranges are never a container's, whatever a configuration says.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0/96"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// SetBlocks says which blocks this host owns now: all of them. On an ErrInvalidBlocks nothing changes. Leases outside
// every block stay until they are released, but are not handed out again.
func (a *Allocator) SetBlocks(blocks []Block) error {
	own := make([]Block, len(blocks))
	for i, b := range blocks {
		own[i] = b
		own[i].Pool = cmp.Or(b.Pool, DefaultPool)
		own[i].Reserved = slices.Clone(b.Reserved)
	}
	if err := checkBlocks(own); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return ErrClosed
	}
	a.book.setBlocks(own)
	a.preallocate(own)
	return nil
}

func checkBlocks(blocks []Block) error {
	for i, b := range blocks {
		if !b.Prefix.IsValid() {
			return fmt.Errorf("%w: block %d has no prefix", ErrInvalidBlocks, i+1)
		}
		if m := b.Prefix.Masked(); m != b.Prefix {
			return fmt.Errorf("%w: %s has host bits set: did you mean %s?", ErrInvalidBlocks, b.Prefix, m)
		}
		for _, u := range unusable {
			if b.Prefix.Overlaps(u) {
				return fmt.Errorf("%w: %s overlaps %s, which containers cannot use", ErrInvalidBlocks, b.Prefix, u)
			}
		}
		for _, other := range blocks[:i] {
			if b.Prefix.Overlaps(other.Prefix) {
				return fmt.Errorf("%w: %s (%s) overlaps %s (%s)", ErrInvalidBlocks, b.Prefix, b.Source, other.Prefix, other.Source)
			}
		}
		if err := ValidPool(b.Pool); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrInvalidBlocks, b.Prefix, err)
		}
		for _, r := range b.Reserved {
			if err := r.check(); err != nil {
				return fmt.Errorf("%w: %s: reserved range %s: %w", ErrInvalidBlocks, b.Prefix, r, err)
			}
			if c, _ := r.Clip(b.Prefix); c != r {
				return fmt.Errorf("%w: reserved range %s is not in %s", ErrInvalidBlocks, r, b.Prefix)
			}
		}
	}
	return nil
}

// preallocate takes room in the file for all addresses of the blocks, if they are not many. A full disk is reported
// but is no error yet: there may be nothing to allocate.
func (a *Allocator) preallocate(blocks []Block) {
	const most = 4 * chunk
	n := 0
	for _, b := range blocks {
		if s := size(b.Prefix); n < most && s.IsInt64() {
			n += int(min(s.Int64(), most))
		} else {
			n = most
		}
	}
	_ = a.grow(min(n, most)) // says so itself
}
