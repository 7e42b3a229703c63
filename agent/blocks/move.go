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

// discard is the route that keeps packets to unassigned addresses from circling between host and ToR.
func discard(p netip.Prefix) routes.Route {
	return routes.Route{Prefix: p, Kind: routes.Blackhole, Metric: discardMetric}
}

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

func everyone(owned) bool { return true }
func nobody(owned) bool   { return false }

// admitted says which of the opening blocks can be opened now: those that are claimed, and whose announcement fits the
// budget. A pool is not opened before it has a block of each of its families, or its first containers would lack one.
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
	return fmt.Sprintf("this host takes %d prefixes in a ToR's table, and %s is %d", n, key, budget)
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
// the next step. What fails keeps blocks from being opened, but not from being withdrawn.
func (k *Keeper) move(ctx context.Context, gate error) []string {
	admit, problems := k.admitted()
	for _, first := range []struct {
		what string
		do   func() error
	}{
		{"blocks not recorded, none is opened", k.save},
		{"changed blocks not taken over, none is opened", func() error { return k.follow(ctx) }},
	} {
		if err := first.do(); err != nil {
			admit = nobody
			problems = append(problems, k.failure(ctx, first.what, err))
			k.disappointAll(fmt.Errorf("%s: %w", first.what, err))
		}
	}
	then := target(k.blocks, admit)
	if why := k.exceeded(then); why != "" {
		problems = append(problems, why+": raise it, or release blocks")
	}
	via := between(k.told, then, lostOf(k.blocks))
	if k.exceeded(via) != "" && k.exceeded(then) == "" {
		// Growth and shrinking see to it before; a changed configuration or a lost block cannot. The ToR's table goes first.
		k.log.Warn("announcements change with a gap, as the budget has no room for both at a time", "from", k.told, "to", then)
		via = then
	}
	k.setDiscards(ctx, union(k.discards, via))
	missing, why := k.withoutDiscard()
	problems = append(problems, why...)
	say := func(set []netip.Prefix) []netip.Prefix {
		if gate != nil {
			return nil
		}
		return minus(set, missing)
	}
	news := len(minus(say(via), k.told)) > 0
	if why := k.announce(ctx, say(via), nil); why != nil {
		return append(problems, why...)
	}
	if news && !k.settle(ctx) || ctx.Err() != nil || len(missing) > 0 {
		return problems // what is to be replaced stays until all that replaces it stands
	}
	if err := k.opens(admit); err != nil {
		k.disappointAll(fmt.Errorf("blocks not opened: %w", err))
		return append(problems, k.failure(ctx, "blocks not opened", err))
	}
	if replaced := minus(say(via), say(then)); len(replaced) > 0 {
		if why := k.announce(ctx, say(via), replaced); why != nil {
			return append(problems, why...)
		}
		if !k.settle(ctx) {
			return problems
		}
	}
	if why := k.announce(ctx, say(then), nil); why != nil {
		return append(problems, why...)
	}
	if !k.leaveBehind(ctx, then) {
		return problems
	}
	k.setDiscards(ctx, then)
	return problems
}

func (k *Keeper) failure(ctx context.Context, what string, err error) string {
	if ctx.Err() == nil {
		k.log.Error(what+"; will be retried", "err", err)
	}
	return fmt.Sprintf("%s: %v", what, err)
}

// save records the blocks, before anybody can come to depend on them.
func (k *Keeper) save() error {
	r := ipam.Record{Retired: k.retired}
	for _, b := range k.blocks {
		if !b.pending() {
			r.Blocks = append(r.Blocks, ipam.RecordedBlock{
				Prefix: b.Prefix, Pool: b.Pool, Source: b.Source, Lost: b.stage == lost,
				Opening: b.stage == opening || b.returning, Released: b.released || b.returning,
			})
		}
	}
	if r.Equal(k.saved) {
		return nil
	}
	if err := r.Save(k.opts.Record); err != nil {
		return err
	}
	k.saved = r
	return nil
}

// kernelWait bounds the wait for the kernel to take a discard route: it is known to be late then, and seen to later.
const kernelWait = 5 * time.Second

// setDiscards makes set the discard routes. Which of them the kernel has, withoutDiscard tells.
func (k *Keeper) setDiscards(ctx context.Context, set []netip.Prefix) {
	ctx, cancel := context.WithTimeout(ctx, kernelWait)
	defer cancel()
	for _, p := range minus(set, k.discards) {
		if err := k.table.Upsert(ctx, routes.Blocks, discard(p)); err != nil {
			k.log.Error("discard route not written, will be retried", "block", p, "err", err)
		}
	}
	for _, p := range minus(k.discards, set) {
		if err := k.table.Delete(ctx, routes.Blocks, p); err != nil {
			k.log.Error("discard route not removed, will be retried", "block", p, "err", err)
		}
	}
	k.discards = set
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
		// It may follow the wish all the same, now or later: nothing of before or after is ruled out.
		k.telling, k.told = false, union(k.told, set)
		return []string{k.failure(ctx, "announcements not accepted by the speaker", err)}
	}
	k.log.Info("announcing", "prefixes", set, "no_advertise", quiet)
	k.telling, k.told, k.quiet = true, set, quiet
	return nil
}

// settle gives the ToRs time to follow, if there is anybody who could tell them. It is false if ctx has ended meanwhile.
func (k *Keeper) settle(ctx context.Context) bool {
	if k.opts.Settle == 0 || !k.speaker.Status().Connected {
		return ctx.Err() == nil
	}
	t := time.NewTimer(k.opts.Settle)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

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
