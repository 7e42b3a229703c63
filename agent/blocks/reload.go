package blocks

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
)

// Settings are those of the Options that can change while a Keeper runs.
type Settings struct {
	Configured  []ipam.Block // all there are of a source that does not grow; of one that does, those that are claimed by name
	Reserved    []ipam.Range // never handed out; what lies outside the blocks does not matter
	Budget      Budget
	MaxBlocks   int           // most base blocks of a pool and family; 0: no limit
	ShrinkAfter time.Duration // a block that was not needed for so long is given back; 0: never
	Settle      time.Duration // for which ToRs are given time to follow a change of announcements
	Health      Health        // how steady the gate's answers, and discard routes, must be
	// Communities and LargeCommunities are what every announcement carries.
	Communities      []uint32
	LargeCommunities []bgp.LargeCommunity
}

// Reconfigure goes on with other settings. A block that is no longer there drains: it is withdrawn when its last lease has
// ended. One that is new is announced before anything is leased from it.
func (k *Keeper) Reconfigure(ctx context.Context, s Settings) error {
	done := make(chan struct{})
	select {
	case k.calls <- func() { k.reconfigure(s); close(done) }:
		<-done
		return nil
	case <-k.ended:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *Keeper) reconfigure(s Settings) {
	k.opts.Settings = s
	k.gateway.set(s.Health)
	for _, steady := range k.discarded {
		steady.set(s.Health)
	}
	if k.grower == nil {
		given := slices.Clone(s.Configured)
		for i := range given {
			given[i].Source = k.opts.Source.Name()
		}
		k.setBlocks(restate(k.blocks, given))
		return
	}
	if k.retired {
		return // nothing is claimed, by name neither
	}
	bs := slices.Clone(k.blocks)
	for _, c := range s.Configured {
		for _, rest := range subtract(c.Prefix, prefixesOf(bs)) {
			c.Prefix = rest
			bs = append(bs, owned{Block: named(c), stage: opening, unclaimed: true, missing: true})
		}
	}
	k.setBlocks(bs)
	k.forgive() // a larger budget or limit may let grow what could not
}

// restate brings the blocks of a source that does not grow to a new list of them.
func restate(bs []owned, given []ipam.Block) []owned {
	out := slices.Clone(bs)
	for _, g := range given {
		out = adopt(out, named(g))
	}
	out = slices.DeleteFunc(out, func(b owned) bool { return b.stage == opening && !has(given, b.Prefix) })
	for i := range out {
		b := &out[i]
		switch {
		case has(given, b.Prefix) && b.stage == draining:
			b.stage, b.released = open, false
		case has(given, b.Prefix) && b.stage == leaving:
			b.stage, b.released, b.withdrawn = opening, false, false
		case has(given, b.Prefix), slices.ContainsFunc(given, func(g ipam.Block) bool { return within(b.Prefix, g.Prefix) }):
			// The second: its successor takes its place when that is open.
		case b.stage == open:
			b.stage, b.released = draining, true
		}
	}
	return out
}

func has(list []ipam.Block, p netip.Prefix) bool {
	return slices.ContainsFunc(list, func(b ipam.Block) bool { return b.Prefix == p })
}

// Plan tells what is announced once the given blocks are all this host has, and which of today's blocks drain. It is for a
// source that does not grow; one that does keeps its blocks.
func (k *Keeper) Plan(given []ipam.Block) (cover, drained []netip.Prefix) {
	k.mu.Lock()
	bs := slices.Clone(k.blocks)
	k.mu.Unlock()
	if k.grower == nil {
		bs = restate(bs, given)
	}
	for _, b := range bs {
		if b.stage == draining {
			drained = append(drained, b.Prefix)
		}
	}
	return target(bs, everyone), drained
}
