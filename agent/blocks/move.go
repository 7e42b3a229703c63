package blocks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

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
	missing := k.withoutDiscard()
	unsteady := k.unsteady(missing)
	withheld := slices.SortedFunc(maps.Keys(unsteady), netip.Prefix.Compare)
	for _, p := range withheld {
		problems = append(problems, fmt.Sprintf("%s is not announced: its discard route is not in the kernel: %v", p, unsteady[p]))
	}
	say := func(set []netip.Prefix) []netip.Prefix {
		if gate != nil || k.holding {
			return nil
		}
		return minus(set, withheld)
	}
	because := cause{gate: gate, held: k.holding, unsteady: unsteady}
	news := len(minus(say(via), k.told)) > 0
	if why := k.announce(ctx, say(via), nil, because); why != nil {
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
		if why := k.announce(ctx, say(via), replaced, because); why != nil {
			return append(problems, why...)
		}
		if !k.settle(ctx) {
			return problems
		}
	}
	if why := k.announce(ctx, say(then), nil, because); why != nil {
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
func (k *Keeper) withoutDiscard() (missing map[netip.Prefix]error) {
	missing = make(map[netip.Prefix]error)
	for _, s := range k.table.Status(routes.Blocks) {
		if s.State != routes.Installed {
			missing[s.Route.Prefix] = errors.Join(s.Err, errors.New(s.State.String()))
		}
	}
	return missing
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
