package blocks

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// Operations on the source. One goes on at a time, apart from Run, which must not wait for a source that is away.
const (
	opAsk     = "ask for the blocks"
	opClaim   = "claim "
	opRelease = "give blocks back"
	opGrow    = "grow in pool "
)

func growing(s section) string { return opGrow + s.pool + " (" + familyName(s.ipv6) + ")" }

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
	if i := slices.IndexFunc(k.blocks, func(b owned) bool { return (b.unclaimed || b.stage == lost) && k.due(opClaim+b.Prefix.String()) }); i >= 0 {
		return k.claim(k.blocks[i])
	}
	if back := k.empty(uses); len(back) > 0 && k.due(opRelease) {
		if op := k.giveBack(back); op != nil {
			return op
		}
	}
	var short []section
	waiting := k.waiting()
	rooms := sections(k.blocks, uses, waiting)
	if !k.retired {
		short = wanted(rooms, k.grower.Pools(), waiting)
	}
	k.forget(short)
	for _, s := range short {
		if k.due(growing(s)) {
			r := rooms[s]
			r.waiting = uint64(waiting[s.pool]) // also where it has no blocks yet
			return k.grow(s, r)
		}
	}
	return nil
}

// forget drops the refusals of growths and claims that nobody needs any more.
func (k *Keeper) forget(needed []section) {
	for op := range k.refusals {
		grows := slices.ContainsFunc(needed, func(s section) bool { return growing(s) == op })
		claims := slices.ContainsFunc(k.blocks, func(b owned) bool { return (b.unclaimed || b.stage == lost) && opClaim+b.Prefix.String() == op })
		if strings.HasPrefix(op, opGrow) && !grows || strings.HasPrefix(op, opClaim) && !claims {
			delete(k.refusals, op)
		}
	}
}

func (k *Keeper) ask(ctx context.Context) func() {
	have, err := k.opts.Source.Blocks(ctx)
	var conflicts []string
	if r, ok := k.opts.Source.(ipam.Registry); ok && err == nil {
		conflicts, err = r.Conflicts(ctx)
	}
	return func() {
		if err != nil {
			k.refuse(opAsk, err)
			k.stale = true
			return
		}
		k.succeed(opAsk)
		k.conflicts = conflicts
		if k.grower != nil {
			k.receive(merge(k.blocks, have, k.grower.Name()))
		}
	}
}

// claim makes a block that this host has by its own records its own in the source too.
func (k *Keeper) claim(b owned) operation {
	op := opClaim + b.Prefix.String()
	same := func(o owned) bool { return o.Prefix == b.Prefix }
	pool := b.Pool
	if b.Source != k.grower.Name() {
		pool = "" // of another source, whose pools may have other names
	}
	return func(ctx context.Context) func() {
		began := time.Now()
		got, err := k.grower.Claim(ctx, pool, []netip.Prefix{b.Prefix})
		took := time.Since(began)
		return func() {
			switch {
			case errors.Is(err, ipam.ErrTaken):
				k.change(same, func(o *owned) {
					if o.stage != lost {
						k.log.Error("block is another host's: it is neither announced nor handed out any more", "block", b.Prefix, "err", err)
					}
					o.stage, o.unclaimed, o.missing = lost, false, false
				})
				k.stale = k.stale || k.refusals[op] == nil // a part of a large one may have been claimed
				k.refuse(op, err)                          // it may be given back, and containers of this host live in it
				return
			case errors.Is(err, ipam.ErrUnknownPool):
				k.log.Warn("block is in no pool of the source: it goes when its last lease has ended", "block", b.Prefix, "source", k.grower.Name())
				k.release(same)
				k.change(same, func(o *owned) { o.unclaimed, o.missing = false, false })
			case err != nil:
				k.refuse(op, err)
				return
			default:
				k.log.Info("block claimed", "block", b.Prefix, "source", k.grower.Name())
				k.take(got, took)
			}
			k.succeed(op)
		}
	}
}

// take adds what the source gave, for which it took so long.
func (k *Keeper) take(got []ipam.Block, took time.Duration) {
	bs := slices.Clone(k.blocks)
	for _, b := range got {
		bs = adopt(bs, named(b))
		k.chronicle.claimed(b.Prefix, took)
	}
	k.receive(bs)
}

// receive goes on with these blocks. What comes to a host that is giving all back goes back at once.
func (k *Keeper) receive(bs []owned) {
	k.setBlocks(bs)
	if k.retired {
		k.release(func(b owned) bool { return b.stage == opening })
	}
}

// empty are the blocks to give back: withdrawn long enough ago for the fabric to know, with no address at rest.
func (k *Keeper) empty(uses map[netip.Prefix]use) []netip.Prefix {
	var ps []netip.Prefix
	for _, b := range k.blocks {
		// One that was never handed out has no use.
		if u := uses[b.Prefix]; b.stage == leaving && b.withdrawn && u.leased+u.resting+u.kept == 0 {
			ps = append(ps, b.Prefix)
		}
	}
	return ps
}

// giveBack is nil if it cannot be recorded first that the blocks may be another host's from now on: after a crash, this host
// would use them by its record.
func (k *Keeper) giveBack(ps []netip.Prefix) operation {
	chosen := func(b owned) bool { return slices.Contains(ps, b.Prefix) }
	before := slices.Clone(k.blocks)
	k.change(chosen, func(b *owned) { b.returning = true })
	if err := k.save(); err != nil {
		k.setBlocks(before)
		k.refuse(opRelease, err)
		return nil
	}
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
	k.growing = true
	op := growing(s)
	var have []netip.Prefix
	for _, b := range k.blocks {
		if b.ipv6() == s.ipv6 && b.stage != lost {
			have = append(have, b.Prefix)
		}
	}
	fits := k.fits(s)
	return func(ctx context.Context) func() {
		began := time.Now()
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
		took := time.Since(began)
		return func() {
			if len(all) == 0 {
				k.disappoint(s.pool, k.refuse(op, err))
				return
			}
			k.succeed(op)
			k.mu.Lock()
			delete(k.failed, s.pool)
			k.mu.Unlock()
			for _, b := range all {
				k.log.Info("block claimed", "block", b.Prefix, "pool", s.pool, "source", k.grower.Name())
			}
			k.take(all, took)
		}
	}
}
