package blocks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// discardMetric is the metric of discard routes: as weak as can be, so that a one-address block never hides the host
// route of the container that holds it.
const discardMetric = 1<<32 - 1

// following is what those who follow were last told.
type following struct {
	own  []netip.Prefix
	host []netip.Addr
}

// retire takes blocks out of the announcements that are on their way out and have no lease any more, if the budget has room for
// the way there. All together may fit where one by one do not.
func (k *Keeper) retire(uses map[netip.Prefix]use) {
	idle := func(b owned) bool {
		u, known := uses[b.Prefix]
		return (b.stage == draining || b.stage == released) && k.closed(b.Prefix) && known && u.leased == 0
	}
	if k.leave(idle) {
		return
	}
	for _, p := range prefixesOf(slices.DeleteFunc(slices.Clone(k.blocks), func(b owned) bool { return !idle(b) })) {
		k.leave(func(b owned) bool { return b.Prefix == p && idle(b) })
	}
}

// closed says that the lease manager had been told before its use was counted: no lease has come since.
func (k *Keeper) closed(p netip.Prefix) bool {
	return slices.ContainsFunc(k.handedOut, func(b ipam.Block) bool { return b.Prefix == p && b.Draining })
}

func (k *Keeper) leave(pick func(owned) bool) (left bool) {
	then := slices.Clone(k.blocks)
	for i := range then {
		if pick(then[i]) {
			then[i].stage = leaving
		}
	}
	if key, _, _ := k.opts.Budget.exceeded(between(k.told, target(then, everyone))); key != "" {
		return false
	}
	k.change(pick, func(b *owned) { b.stage, b.withdrawn = leaving, false })
	return true
}

func everyone(owned) bool { return true }

// admitted says which of the opening blocks can be opened now: those that are recorded, claimed, and whose announcement fits
// the budget. A pool is not opened before it has a block of each of its families, or its first containers would lack one.
func (k *Keeper) admitted() (func(owned) bool, []string) {
	var problems []string
	whole := func(b owned) bool { return !b.unclaimed && k.complete(b.Pool) }
	if k.exceeded(target(k.blocks, whole)) == "" {
		return whole, nil
	}
	in := make(map[netip.Prefix]bool)
	pick := func(b owned) bool { return in[b.Prefix] }
	for _, b := range k.blocks {
		if b.stage != opening || !whole(b) {
			continue
		}
		in[b.Prefix] = true
		if why := k.exceeded(target(k.blocks, pick)); why != "" {
			delete(in, b.Prefix)
			problems = append(problems, fmt.Sprintf("block %s is not used yet: with it %s; it follows when others have gone", b.Prefix, why))
		}
	}
	return pick, problems
}

func (k *Keeper) exceeded(set []netip.Prefix) string {
	key, n, budget := k.opts.Budget.exceeded(set)
	if key == "" {
		return ""
	}
	return fmt.Sprintf("this host would take %d prefixes in a ToR's table, and %s is %d", n, key, budget)
}

// complete says whether the host has a block of each family of the pool.
func (k *Keeper) complete(pool string) bool {
	if k.grower == nil {
		return true
	}
	i := slices.IndexFunc(k.grower.Pools(), func(p ipam.Pool) bool { return p.Name == pool })
	if i < 0 {
		return true
	}
	for _, ipv6 := range []bool{false, true} {
		if base(k.grower.Pools()[i], ipv6) > 0 && !slices.ContainsFunc(k.blocks, func(b owned) bool {
			return b.section() == section{pool, ipv6} && b.stage != lost && b.stage != leaving && !b.pending()
		}) {
			return false
		}
	}
	return true
}

// move brings the kernel, the ToRs and the lease manager to the blocks as they are now, make before break: discard routes, then
// announcements, then leases; and the other way round for what goes. It returns what it could not do and tries again at
// the next step.
func (k *Keeper) move(ctx context.Context, gate error) (problems []string) {
	admit, problems := k.admitted()
	fail := func(what string, err error) []string {
		if ctx.Err() == nil {
			k.log.Error(what+", will be retried", "err", err)
		}
		return append(problems, fmt.Sprintf("%s: %v", what, err))
	}
	if err := k.save(); err != nil {
		if gate != nil {
			problems = append(problems, k.announce(ctx, nil, nil)...)
		}
		return fail("blocks not recorded, nothing is changed", err)
	}
	then := target(k.blocks, admit)
	via := between(k.told, then)
	if key := k.exceeded(via); key != "" {
		// Only a changed configuration comes here: growth and shrinking see to it before. The ToR's table goes first.
		k.log.Warn("announcements change with a gap, as the budget has no room for both at a time", "from", k.told, "to", then)
		via = then
	}
	if err := k.setDiscards(ctx, union(k.discards, via)); err != nil {
		return fail("discard routes not written", err)
	}
	missing, why := k.withoutDiscard()
	problems = append(problems, why...)
	if err := k.follow(ctx); err != nil {
		return fail("changed blocks not taken over", err)
	}
	say := func(set []netip.Prefix) []netip.Prefix {
		if gate != nil {
			return nil
		}
		return slices.DeleteFunc(slices.Clone(set), func(p netip.Prefix) bool { return slices.Contains(missing, p) })
	}
	news := slices.ContainsFunc(say(via), func(p netip.Prefix) bool { return !slices.Contains(k.told, p) })
	if why := k.announce(ctx, say(via), nil); why != nil {
		return append(problems, why...)
	}
	if news {
		k.settle(ctx)
	}
	if ctx.Err() != nil || len(missing) > 0 {
		return problems // what is to be replaced stays until all that replaces it stands
	}
	if err := k.opens(admit); err != nil {
		return fail("blocks not taken by the lease manager", err)
	}
	if replaced := minus(say(via), say(then)); len(replaced) > 0 {
		if why := k.announce(ctx, say(via), replaced); why != nil {
			return append(problems, why...)
		}
		k.settle(ctx)
	}
	if why := k.announce(ctx, say(then), nil); why != nil {
		return append(problems, why...)
	}
	k.leaveBehind(ctx, then)
	if err := k.setDiscards(ctx, then); err != nil {
		return fail("discard routes not written", err)
	}
	return problems
}

// save records the blocks, before anybody can come to depend on them.
func (k *Keeper) save() error {
	var record []ipam.RecordedBlock
	for _, b := range k.blocks {
		if b.stage != lost && !b.pending() {
			record = append(record, ipam.RecordedBlock{Prefix: b.Prefix, Pool: b.Pool, Source: b.Source, Released: b.stage == released && k.grower != nil})
		}
	}
	if slices.Equal(record, k.saved) {
		return nil
	}
	if err := ipam.SaveBlocks(k.opts.Record, record); err != nil {
		return err
	}
	k.saved = record
	return nil
}

func (k *Keeper) setDiscards(ctx context.Context, set []netip.Prefix) error {
	if k.synced && slices.Equal(set, k.discards) {
		return nil
	}
	var rs []routes.Route
	for _, p := range set {
		rs = append(rs, routes.Route{Prefix: p, Kind: routes.Blackhole, Metric: discardMetric})
	}
	k.table.Set(routes.Blocks, rs)
	k.table.Synced(routes.Blocks)
	k.synced, k.discards = true, set
	return k.table.WaitIdle(ctx)
}

// withoutDiscard are the prefixes whose discard route the kernel does not have: their unassigned addresses would loop between
// host and ToR.
func (k *Keeper) withoutDiscard() (missing []netip.Prefix, why []string) {
	for _, s := range k.table.Status(routes.Blocks) {
		if s.State != routes.Installed {
			missing = append(missing, s.Route.Prefix)
			why = append(why, fmt.Sprintf("%s is not announced: its discard route is not in the kernel: %v", s.Route.Prefix, errors.Join(s.Err, errors.New(s.State.String()))))
		}
	}
	return missing, why
}

func (k *Keeper) follow(ctx context.Context) error {
	now := following{own: ownSpace(k.blocks), host: k.host}
	if slices.Equal(now.own, k.followed.own) && slices.Equal(now.host, k.followed.host) {
		return nil
	}
	if err := k.opts.Follow(ctx, now.own, now.host); err != nil {
		return err
	}
	k.followed = now
	return nil
}

// announce has the speaker announce the set. The quiet ones of it are for the ToRs alone (NO_ADVERTISE): they are about to be
// withdrawn in favour of others with the same addresses, and by then nobody else must know them any more. A ToR that
// loses a route looks for the ways that others had to it, over the spine to the other ToR and back, and would send packets in
// circles while these are withdrawn in their turn.
func (k *Keeper) announce(ctx context.Context, set, quiet []netip.Prefix) (why []string) {
	if k.telling && slices.Equal(set, k.told) && slices.Equal(quiet, k.quiet) {
		return nil
	}
	list := make([]bgp.Announcement, len(set))
	for i, p := range set {
		list[i] = bgp.Announcement{Prefix: p}
		if slices.Contains(quiet, p) {
			list[i].Communities = []uint32{bgp.NoAdvertise}
		}
	}
	if err := k.speaker.Announce(ctx, list); err != nil && !errors.Is(err, bgp.ErrDisconnected) {
		if ctx.Err() == nil {
			k.log.Error("announcements not accepted by the speaker client, will be retried", "err", err)
		}
		return []string{fmt.Sprintf("announcements not accepted by the speaker: %v", err)}
	}
	k.log.Info("announcing", "prefixes", set, "no_advertise", quiet)
	k.telling, k.told, k.quiet = true, set, quiet
	return nil
}

// settle gives the ToRs time to follow, if there is anybody who could tell them.
func (k *Keeper) settle(ctx context.Context) {
	if k.opts.Settle == 0 || !k.speaker.Status().Connected {
		return
	}
	t := time.NewTimer(k.opts.Settle)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// opens opens the admitted blocks, and tells the lease manager of all changes.
func (k *Keeper) opens(admit func(owned) bool) error {
	pools := make(map[string]bool)
	k.change(func(b owned) bool { return b.stage == opening && admit(b) }, func(b *owned) {
		b.stage = open
		pools[b.Pool] = true
		k.log.Info("block is open", "block", b.Prefix, "pool", b.Pool, "source", b.Source)
	})
	if err := k.handOut(); err != nil {
		return err
	}
	if len(pools) > 0 {
		k.serve(pools)
	}
	return nil
}

// handOut gives the lease manager the blocks as they are now.
func (k *Keeper) handOut() error {
	var all []ipam.Block
	for _, b := range k.blocks {
		if b.stage == opening {
			continue
		}
		block := b.Block
		block.Draining = b.stage != open
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
	k.handedOut = all
	return nil
}

func sameBlock(a, b ipam.Block) bool {
	return a.Prefix == b.Prefix && a.Pool == b.Pool && a.Source == b.Source && a.Draining == b.Draining && slices.Equal(a.Reserved, b.Reserved)
}

// leaveBehind is done with blocks that are no longer announced. Those of a source that grows are given back, once the ToRs
// have had the time to forget them.
func (k *Keeper) leaveBehind(ctx context.Context, told []netip.Prefix) {
	gone := func(b owned) bool { return b.stage == leaving && !b.withdrawn && !overlaps(told, b.Prefix) }
	if !slices.ContainsFunc(k.blocks, gone) {
		return
	}
	k.settle(ctx)
	k.change(gone, func(b *owned) { b.withdrawn = true })
	source := ""
	if k.grower != nil {
		source = k.grower.Name()
	}
	k.drop(func(b owned) bool {
		done := b.stage == leaving && b.withdrawn && b.Source != source
		if done {
			k.log.Info("block is done with", "block", b.Prefix, "source", b.Source)
		}
		return done
	})
	k.Kick()
}
