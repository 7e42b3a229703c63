package blocks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// Operations on the source. One goes on at a time, apart from Run, which must not wait for a source that is away.
const (
	opAsk     = "ask for the blocks"
	opClaim   = "claim blocks"
	opRelease = "give blocks back"
	opGrow    = "grow "
)

// refusal is a failure, and until when it is not tried again.
type refusal struct {
	err   error
	until time.Time
	delay time.Duration
}

const (
	minRetry = 250 * time.Millisecond
	maxRetry = 15 * time.Second
)

// refuse notes that an operation failed; the next attempt comes later each time.
func (k *Keeper) refuse(op string, err error) *refusal {
	r := k.refusals[op]
	if r == nil {
		r = &refusal{delay: minRetry}
		k.refusals[op] = r
		k.log.Warn("source of blocks refuses, will be retried", "source", k.opts.Source.Name(), "operation", op, "err", err)
	} else {
		r.delay = min(2*r.delay, maxRetry)
	}
	next := &refusal{err: err, delay: r.delay, until: time.Now().Add(r.delay)}
	k.refusals[op] = next
	return next
}

func (k *Keeper) due(op string) bool {
	r := k.refusals[op]
	return r == nil || time.Now().After(r.until)
}

func (k *Keeper) succeed(op string) {
	if k.refusals[op] != nil {
		k.log.Info("source of blocks works again", "source", k.opts.Source.Name(), "operation", op)
		delete(k.refusals, op)
	}
}

// forgive has everything that failed tried again at once: the source is back.
func (k *Keeper) forgive() {
	for op, r := range k.refusals {
		k.refusals[op] = &refusal{err: r.err, delay: minRetry}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.failed)
}

// work starts the most urgent operation on the source, if any is due.
func (k *Keeper) work(ctx context.Context, uses map[netip.Prefix]use, working *sync.WaitGroup) {
	if k.asking {
		return
	}
	op := k.next(uses)
	if op == nil {
		return
	}
	k.asking = true
	working.Go(func() {
		apply := op(ctx)
		select {
		case k.done <- apply:
		case <-ctx.Done():
		}
	})
}

// operation asks the source and returns what is to be done with the answer.
type operation func(ctx context.Context) (apply func())

func (k *Keeper) next(uses map[netip.Prefix]use) operation {
	if k.stale && k.due(opAsk) {
		k.stale = false // a hint that comes from now on is for the next time
		return k.ask
	}
	if k.grower == nil {
		return nil
	}
	if i := slices.IndexFunc(k.blocks, func(b owned) bool { return b.unclaimed && b.stage != lost }); i >= 0 && k.due(opClaim) {
		return k.claim(k.blocks[i])
	}
	if back := k.empty(uses); len(back) > 0 && k.due(opRelease) {
		return k.release(back)
	}
	if k.retired {
		return nil
	}
	waiting := k.waiting()
	rooms := sections(k.blocks, uses, waiting)
	for _, s := range wanted(rooms, k.grower.Pools(), waiting) {
		if k.due(opGrow + s.pool + familyName(s.ipv6)) {
			return k.grow(s, rooms[s])
		}
	}
	return nil
}

// stranger is a source that knows of claims that another installation of this host has, of before it was set up anew.
type stranger interface {
	Strangers(ctx context.Context) ([]ipam.Claim, error)
}

func (k *Keeper) ask(ctx context.Context) func() {
	have, err := k.opts.Source.Blocks(ctx)
	var others []ipam.Claim
	if s, ok := k.opts.Source.(stranger); ok && err == nil {
		others, err = s.Strangers(ctx)
	}
	return func() {
		if err != nil {
			k.refuse(opAsk, err)
			k.stale = true
			return
		}
		k.succeed(opAsk)
		k.strangers = len(others)
		if k.grower != nil {
			k.setBlocks(merge(k.blocks, have, k.grower.Name()))
		}
	}
}

// claim makes a block that this host has by its own records its own in the source too.
func (k *Keeper) claim(b owned) operation {
	pool := b.Pool
	if b.Source != k.grower.Name() {
		pool = "" // of another source, whose pools may have other names
	}
	return func(ctx context.Context) func() {
		got, err := k.grower.Claim(ctx, pool, []netip.Prefix{b.Prefix})
		return func() {
			switch {
			case errors.Is(err, ipam.ErrTaken):
				k.log.Error("block is another host's: it is neither announced nor handed out any more", "block", b.Prefix, "err", err)
				k.change(func(o owned) bool { return o.Prefix == b.Prefix }, func(o *owned) { o.stage = lost })
			case errors.Is(err, ipam.ErrUnknownPool):
				k.log.Warn("block is in no pool of the source: it goes when its last lease has ended", "block", b.Prefix, "source", k.grower.Name())
				k.change(func(o owned) bool { return o.Prefix == b.Prefix }, func(o *owned) { o.stage, o.unclaimed = released, false })
			case err != nil:
				k.refuse(opClaim, err)
				return
			default:
				k.log.Info("block claimed", "block", b.Prefix, "source", k.grower.Name())
				k.take(got)
			}
			k.succeed(opClaim)
		}
	}
}

// take adds what the source gave.
func (k *Keeper) take(got []ipam.Block) {
	bs := slices.Clone(k.blocks)
	for _, b := range got {
		bs = adopt(bs, named(b))
	}
	for i := range bs {
		if slices.ContainsFunc(got, func(g ipam.Block) bool { return g.Prefix == bs[i].Prefix }) {
			bs[i].unclaimed = false
		}
	}
	k.setBlocks(bs)
}

// empty are the blocks to give back: withdrawn long enough ago for the fabric to know, with no address at rest.
func (k *Keeper) empty(uses map[netip.Prefix]use) []netip.Prefix {
	var ps []netip.Prefix
	for _, b := range k.blocks {
		if u, known := uses[b.Prefix]; b.stage == leaving && b.withdrawn && known && u.leased+u.resting == 0 {
			ps = append(ps, b.Prefix)
		}
	}
	return ps
}

func (k *Keeper) release(ps []netip.Prefix) operation {
	k.change(func(b owned) bool { return slices.Contains(ps, b.Prefix) }, func(b *owned) { b.returning = true })
	return func(ctx context.Context) func() {
		err := k.grower.Release(ctx, ps)
		return func() {
			if err != nil {
				k.refuse(opRelease, err)
				return
			}
			k.succeed(opRelease)
			k.log.Info("blocks given back", "blocks", ps, "source", k.grower.Name())
			k.drop(func(b owned) bool { return b.stage == leaving && slices.Contains(ps, b.Prefix) })
		}
	}
}

// grow claims blocks until the section has the room it needs. What it got counts, even if it did not get all.
func (k *Keeper) grow(s section, r room) operation {
	op := opGrow + s.pool + familyName(s.ipv6)
	var have []netip.Prefix
	for _, b := range k.blocks {
		if b.ipv6() == s.ipv6 && b.stage != lost {
			have = append(have, b.Prefix)
		}
	}
	fits := k.fits(s)
	return func(ctx context.Context) func() {
		var all []ipam.Block
		var gained []netip.Prefix
		var err error
		for usable := r.usable; len(all) == 0 || usable < r.goal(); {
			var got []ipam.Block
			got, err = k.grower.Grow(ctx, ipam.Growth{
				Pool: s.pool, IPv6: s.ipv6, Have: slices.Concat(have, gained),
				Fits: func(added []netip.Prefix) error { return fits(slices.Concat(gained, added)) },
			})
			if err != nil {
				break
			}
			for _, b := range got {
				gained = append(gained, b.Prefix)
				usable += count(size(b.Prefix))
			}
			all = append(all, got...)
		}
		return func() {
			if len(all) == 0 {
				k.disappoint(s.pool, k.refuse(op, fmt.Errorf("pool %s (%s): %w", s.pool, familyName(s.ipv6), err)))
				return
			}
			k.succeed(op)
			k.mu.Lock()
			delete(k.failed, s.pool)
			k.mu.Unlock()
			for _, b := range all {
				k.log.Info("block claimed", "block", b.Prefix, "pool", s.pool, "source", k.grower.Name())
			}
			k.take(all)
		}
	}
}
