package blocks

import (
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// opens opens the admitted blocks. What a new block contains it replaces.
func (k *Keeper) opens(admit func(owned) bool) error {
	before := slices.Clone(k.blocks)
	var news []netip.Prefix
	for _, b := range k.blocks {
		if b.stage == opening && admit(b) {
			news = append(news, b.Prefix)
		}
	}
	if len(news) == 0 {
		return nil
	}
	k.setHanding(true)
	defer k.setHanding(false)
	k.drop(func(b owned) bool {
		return slices.ContainsFunc(news, func(p netip.Prefix) bool { return within(b.Prefix, p) })
	})
	k.change(func(b owned) bool { return slices.Contains(news, b.Prefix) }, func(b *owned) { b.stage = open })
	if err := k.save(); err != nil {
		k.setBlocks(before)
		return err
	}
	for _, p := range news {
		k.log.Info("block is open", "block", p)
	}
	return k.handOut()
}

func (k *Keeper) setHanding(v bool) {
	k.mu.Lock()
	k.handing = v
	k.mu.Unlock()
}

// handOut gives the lease manager the blocks as they are now, and has those try again who wait for what it has more of.
func (k *Keeper) handOut() error {
	var all []ipam.Block
	for _, b := range k.blocks {
		if b.stage == opening {
			continue
		}
		block := b.Block
		block.Draining = b.stage != open || b.missing
		for _, r := range k.opts.Reserved {
			if part, ok := r.Clip(b.Prefix); ok {
				block.Reserved = append(block.Reserved, part)
			}
		}
		if k.opts.HostAddress { // in each of them, for the host's own address may have to move there
			block.Reserved = append(block.Reserved, ipam.Range{First: b.Prefix.Addr(), Last: b.Prefix.Addr()})
		}
		all = append(all, block)
	}
	if slices.EqualFunc(all, k.handedOut, sameBlock) {
		return nil
	}
	if err := k.leases.SetBlocks(all); err != nil {
		return err
	}
	more := make(map[string]bool)
	for _, b := range all {
		if !b.Draining && !slices.ContainsFunc(k.handedOut, func(o ipam.Block) bool { return o.Prefix == b.Prefix && !o.Draining }) {
			more[b.Pool] = true
		}
	}
	k.handedOut = all
	if len(more) > 0 {
		k.serve(more)
	}
	return nil
}

func sameBlock(a, b ipam.Block) bool {
	return a.Prefix == b.Prefix && a.Pool == b.Pool && a.Source == b.Source && a.Draining == b.Draining && slices.Equal(a.Reserved, b.Reserved)
}
