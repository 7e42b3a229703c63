package blocks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// withdraw has blocks leave that are on their way out and in which nobody lives any more, if the budget has room for the way
// there: all together may fit where one by one do not. It does not while a growth is under way, which was judged by what
// is announced now. It returns why blocks stay that have no lease any more.
func (k *Keeper) withdraw(ctx context.Context, uses map[netip.Prefix]use) (problems []string) {
	k.drop(func(b owned) bool { return b.stage == lost && uses[b.Prefix].leased == 0 && !k.configured(b.Prefix) })
	if k.growing {
		return nil
	}
	var idle []netip.Prefix
	for _, b := range k.blocks {
		u := uses[b.Prefix]
		if b.stage != draining || !k.closed(b.Prefix) || u.leased > 0 {
			continue
		}
		by, err := k.opts.Occupant(ctx, b.Prefix)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("block %s stays: %v", b.Prefix, err))
		case by != "":
			problems = append(problems, fmt.Sprintf("block %s stays, though nothing is leased from it: %s", b.Prefix, by))
		case u.kept > 0:
			problems = append(problems, fmt.Sprintf("block %s stays, though nothing is leased from it: %d of its addresses are in use or fenced off", b.Prefix, u.kept))
		default:
			idle = append(idle, b.Prefix)
		}
	}
	if k.leave(idle) {
		return problems
	}
	for _, p := range idle {
		if !k.leave([]netip.Prefix{p}) {
			problems = append(problems, fmt.Sprintf("block %s stays, though nothing is leased from it: without it, for a moment at least, %s", p, k.exceeded(between(k.told, target(k.without(p), nobody), nil))))
		}
	}
	return problems
}

// configured says that a block is to be claimed by the configuration: that another host has it stays a problem.
func (k *Keeper) configured(p netip.Prefix) bool {
	return slices.ContainsFunc(k.opts.Configured, func(c ipam.Block) bool { return c.Prefix.Overlaps(p) })
}

// without are the blocks as they would be if some had left.
func (k *Keeper) without(ps ...netip.Prefix) []owned {
	return slices.DeleteFunc(slices.Clone(k.blocks), func(b owned) bool { return b.stage == draining && slices.Contains(ps, b.Prefix) })
}

// closed says that the lease manager had been told before its use was counted: no lease has come since.
func (k *Keeper) closed(p netip.Prefix) bool {
	return slices.ContainsFunc(k.handedOut, func(b ipam.Block) bool { return b.Prefix == p && b.Draining })
}

func (k *Keeper) leave(ps []netip.Prefix) bool {
	if k.exceeded(between(k.told, target(k.without(ps...), everyone), nil)) != "" {
		return false
	}
	k.change(func(b owned) bool { return b.stage == draining && slices.Contains(ps, b.Prefix) }, func(b *owned) { b.stage, b.withdrawn = leaving, false })
	return true
}

// leaveBehind gives the ToRs time to forget what is no longer announced, before its discard route goes and it is given back.
// What no growing source has is done with then. It is false if ctx has ended meanwhile.
func (k *Keeper) leaveBehind(ctx context.Context, then []netip.Prefix) bool {
	if slices.ContainsFunc(k.discards, func(p netip.Prefix) bool { return !contains(then, p) }) && !k.settle(ctx) {
		return false
	}
	gone := func(b owned) bool { return b.stage == leaving && !b.withdrawn }
	if !slices.ContainsFunc(k.blocks, gone) {
		return true
	}
	k.change(gone, func(b *owned) { b.withdrawn = true })
	k.drop(func(b owned) bool {
		done := b.stage == leaving && b.withdrawn && (k.grower == nil || b.Source != k.grower.Name())
		switch {
		case done && k.grower == nil && b.Source != k.opts.Source.Name():
			k.log.Warn("block is done with here, but still claimed for this host in the source that it came from: release it there",
				"block", b.Prefix, "source", b.Source, "command", "hostfabric blocks release --host")
		case done:
			k.log.Info("block is done with", "block", b.Prefix, "source", b.Source)
		}
		return done
	})
	k.Kick()
	return true
}
