package blocks

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// View is what there is to tell of a block of this host.
type View struct {
	ipam.Usage
	State string       // opening, open, draining, released, leaving, lost
	Cover netip.Prefix // the announced prefix that contains it; zero while none does
}

// siblingWait bounds the question to the source: who looks at blocks while it is away waits for no longer.
const siblingWait = time.Second

// Blocks lists this host's blocks, by prefix.
func (k *Keeper) Blocks() []View {
	k.mu.Lock()
	bs := slices.Clone(k.blocks)
	k.mu.Unlock()
	usage := k.leases.Usage()
	cover := target(bs, nobody)
	out := make([]View, 0, len(bs))
	for _, b := range bs {
		block := View{Usage: unused(b), State: b.state()}
		if i := slices.IndexFunc(usage, func(u ipam.Usage) bool { return u.Block.Prefix == b.Prefix }); i >= 0 {
			block.Usage = usage[i]
		}
		if i := slices.IndexFunc(cover, b.Prefix.Overlaps); i >= 0 {
			block.Cover = cover[i]
		}
		out = append(out, block)
	}
	slices.SortFunc(out, func(x, y View) int { return x.Block.Prefix.Compare(y.Block.Prefix) })
	return out
}

// Cover is what is to be announced: the fewest prefixes that have all blocks which are open, or on their way out with leases in them.
func (k *Keeper) Cover() []netip.Prefix {
	k.mu.Lock()
	defer k.mu.Unlock()
	return target(k.blocks, nobody)
}

// unused is the use of a block that the lease manager does not have yet.
func unused(b owned) ipam.Usage {
	return ipam.Usage{Block: b.Block, Size: size(b.Prefix), Free: new(big.Int), Reserved: new(big.Int), InUse: new(big.Int), Withheld: size(b.Prefix)}
}

// Siblings tells with what each block would merge into one prefix of half the length, and who has that. While the source
// cannot be asked, the state of a sibling that is not this host's own is empty.
func (k *Keeper) Siblings(ctx context.Context) map[netip.Prefix]ipam.Sibling {
	k.mu.Lock()
	bs := slices.Clone(k.blocks)
	k.mu.Unlock()
	known := make(map[netip.Prefix]ipam.Sibling)
	var ask []netip.Prefix
	own := ownSpace(bs)
	for _, b := range bs {
		sib, ok := sibling(b.Prefix)
		switch {
		case !ok:
		case contains(own, sib):
			known[b.Prefix] = ipam.Sibling{Prefix: sib, State: ipam.SiblingOwn}
		default:
			known[b.Prefix] = ipam.Sibling{Prefix: sib}
			ask = append(ask, b.Prefix)
		}
	}
	if k.grower == nil || len(ask) == 0 {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, siblingWait)
	defer cancel()
	told, err := k.grower.Siblings(ctx, ask)
	if err != nil {
		k.log.Debug("siblings unknown", "err", err)
	}
	for p, s := range told {
		known[p] = s
	}
	return known
}

// Status is the keeper's own account of itself.
type Status struct {
	Gate     error    // why nothing is announced; nil while the gate is open
	Problems []string // empty when all is well
}

// Status tells how the last step went.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Status{Gate: k.gate, Problems: slices.Clone(k.problems)}
}

// publish makes what a step found known.
func (k *Keeper) publish(gate error, problems []string) {
	for _, b := range k.blocks {
		switch {
		case b.stage == lost:
			problems = append(problems, fmt.Sprintf("block %s is claimed by another host: it is neither announced nor leased from", b.Prefix))
		case b.missing:
			problems = append(problems, fmt.Sprintf("block %s is not claimed in %s: nothing is leased from it until it is", b.Prefix, k.opts.Source.Name()))
		}
	}
	problems = append(problems, k.conflicts...)
	var ops []string
	for op, r := range k.refusals {
		ops = append(ops, fmt.Sprintf("%s: cannot %s: %v", k.opts.Source.Name(), op, r.err))
	}
	slices.Sort(ops)
	k.mu.Lock()
	was := k.gate
	k.gate, k.problems = gate, append(problems, ops...)
	k.mu.Unlock()
	switch {
	case gate != nil && (was == nil || was.Error() != gate.Error()):
		k.log.Warn("blocks are not announced", "reason", gate)
	case gate == nil && was != nil:
		k.log.Info("blocks may be announced")
	}
}

// Release marks blocks of a source that grows for being given back: nothing more is leased from them, and they go when
// their last lease has ended. No prefix means all of them, and that this host claims no more until the agent is started
// again without any. A prefix that is no block of this host is an ErrNotClaimed and changes nothing.
func (k *Keeper) Release(ctx context.Context, prefixes []netip.Prefix) ([]netip.Prefix, error) {
	type answer struct {
		released []netip.Prefix
		err      error
	}
	done := make(chan answer, 1)
	select {
	case k.calls <- func() { var a answer; a.released, a.err = k.giveUp(prefixes); done <- a }:
		a := <-done
		return a.released, a.err
	case <-k.ended:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *Keeper) giveUp(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	if k.grower == nil {
		return nil, fmt.Errorf("%w: the blocks are %s: take them out of the configuration", ErrNotClaimed, k.opts.Source.Name())
	}
	chosen := func(b owned) bool {
		return b.stage != lost && (len(prefixes) == 0 || slices.Contains(prefixes, b.Prefix))
	}
	var found []netip.Prefix
	for _, b := range k.blocks {
		if chosen(b) {
			found = append(found, b.Prefix)
		}
	}
	for _, p := range prefixes {
		if !slices.Contains(found, p) {
			return nil, fmt.Errorf("%w: %s", ErrNotClaimed, p)
		}
	}
	if len(prefixes) == 0 {
		k.mu.Lock()
		k.retired = true
		k.mu.Unlock()
		k.dismiss(ErrNoGrowth)
	}
	k.release(chosen)
	if err := errors.Join(k.save(), k.handOut()); err != nil {
		return found, fmt.Errorf("released, but a restart of the agent may forget it: %w", err)
	}
	return found, nil
}

// release sends blocks on their way out for good. One from which nothing was ever leased has no announcement to keep, and
// one that was never claimed is nothing to give back.
func (k *Keeper) release(chosen func(owned) bool) {
	k.drop(func(b owned) bool { return chosen(b) && b.pending() })
	k.change(chosen, func(b *owned) {
		b.released = true
		switch b.stage {
		case opening:
			b.stage = leaving
		case open:
			b.stage = draining
		}
		k.log.Info("block is released: it is given back when its last lease has ended", "block", b.Prefix)
	})
}
