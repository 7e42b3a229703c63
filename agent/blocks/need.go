package blocks

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// use is what is known of a block's addresses. Numbers that do not fit are as large as can be.
type use struct {
	usable, leased, resting uint64
	kept                    uint64 // neither leased nor to be had: a container may live there, or something else does
}

// tally is the use of each block by prefix.
func tally(all []ipam.Usage) map[netip.Prefix]use {
	by := make(map[netip.Prefix]use, len(all))
	for _, u := range all {
		kept := count(u.InUse) + u.Fenced
		usable := new(big.Int).Sub(u.Size, new(big.Int).Add(u.Reserved, new(big.Int).SetUint64(kept)))
		by[u.Block.Prefix] = use{usable: count(usable), leased: u.Leased, resting: u.Quarantined - u.Fenced, kept: kept}
	}
	return by
}

const many = 1 << 40 // more addresses than a host will ever need

func count(n *big.Int) uint64 {
	if n.Sign() < 0 {
		return 0
	}
	if n.IsUint64() {
		return min(n.Uint64(), many)
	}
	return many
}

// room is the addresses of a section, and who needs them.
type room struct {
	blocks  int
	usable  uint64 // in blocks that are open or about to be
	busy    uint64 // leased, or at rest: see add
	waiting uint64 // attaches that wait for an address
}

// add counts a block in. Addresses at rest need room as those leased do, or the quarantine would be cut short; but no more of
// them than are leased, or a host of many short-lived containers would grow without end.
func (r *room) add(u use) {
	r.blocks++
	r.usable += u.usable
	r.busy += u.leased + min(u.resting, u.leased)
}

// short says that more addresses are wanted: before the last one is taken, as a new block takes its time to become known.
func (r room) short() bool { return (r.busy+r.waiting)*4 > r.usable*3 }

// goal is how many addresses are to be usable. Where attaches wait already, demand is ahead of growth, which then goes on by
// doubling: a block at a time would make each of the next ones wait again.
func (r room) goal() uint64 {
	goal := ((r.busy+r.waiting)*4 + 2) / 3
	if r.waiting > 0 {
		goal = max(goal, 2*r.usable)
	}
	return goal
}

// spare says that the section could do with size addresses less, by a margin that keeps it from growing again soon.
func (r room) spare(size uint64) bool {
	return size <= r.usable && (r.busy+r.waiting)*2 <= r.usable-size
}

// sections counts each section's room; waiting are the attaches that wait, by pool.
func sections(bs []owned, uses map[netip.Prefix]use, waiting map[string]int) map[section]room {
	rooms := make(map[section]room)
	for _, b := range bs {
		if b.stage > draining || b.released || b.missing {
			continue
		}
		r := rooms[b.section()]
		u, known := uses[b.Prefix]
		if !known { // about to be opened: nobody has counted it yet
			u.usable = count(size(b.Prefix))
		}
		if b.stage == draining {
			r.busy += u.leased // they may have to find room elsewhere
		} else {
			r.add(u)
		}
		rooms[b.section()] = r
	}
	for s, r := range rooms {
		r.waiting = uint64(waiting[s.pool])
		rooms[s] = r
	}
	return rooms
}

// wanted lists the sections that should grow, the most urgent first: those somebody waits for.
func wanted(rooms map[section]room, pools []ipam.Pool, waiting map[string]int) []section {
	var out []section
	for _, p := range pools {
		for _, ipv6 := range []bool{false, true} {
			if base(p, ipv6) == 0 {
				continue
			}
			s := section{p.Name, ipv6}
			r := rooms[s]
			switch {
			case r.blocks > 0 && !r.short():
			case r.blocks == 0 && waiting[p.Name] == 0 && p.Name != ipam.DefaultPool && rooms[section{p.Name, !ipv6}].blocks == 0:
			default:
				out = append(out, s)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b section) int { return waiting[b.pool] - waiting[a.pool] })
	return out
}

func base(p ipam.Pool, ipv6 bool) int {
	if ipv6 {
		return p.BaseIPv6
	}
	return p.BaseIPv4
}

// need takes blocks that are not needed out of use, and back into it when addresses run short.
func (k *Keeper) need(uses map[netip.Prefix]use) {
	if k.grower == nil {
		return
	}
	waiting := k.waiting()
	rooms := sections(k.blocks, uses, waiting)
	for s, r := range rooms {
		if r.short() {
			k.reopen(s)
		}
	}
	if k.opts.ShrinkAfter == 0 {
		return
	}
	now := time.Now()
	for s := range k.spares {
		if _, still := rooms[s]; !still {
			delete(k.spares, s)
		}
	}
	for s, r := range rooms {
		chosen := surplus(k.blocks, s, r, uses, k.host, k.grower.Name())
		since, spare := k.spares[s]
		switch {
		case len(chosen) == 0:
			delete(k.spares, s)
		case !spare:
			k.spares[s] = now
		case now.Sub(since) >= k.opts.ShrinkAfter:
			delete(k.spares, s)
			for _, p := range chosen {
				k.log.Info("block is not needed: nothing more is leased from it, and it is given back when it is empty", "block", p, "pool", s.pool)
			}
			k.change(func(b owned) bool { return slices.Contains(chosen, b.Prefix) }, func(b *owned) { b.stage = draining })
		}
	}
}

// reopen puts blocks to use again that were on their way out because nobody needed them.
func (k *Keeper) reopen(s section) {
	k.change(func(b owned) bool {
		return b.section() == s && !b.released && !b.unclaimed && !b.returning && (b.stage == draining || b.stage == leaving)
	}, func(b *owned) {
		if b.stage == leaving {
			b.stage = opening
		} else {
			b.stage = open
		}
		b.withdrawn = false
		k.log.Info("block is needed again", "block", b.Prefix, "pool", s.pool)
	})
}

// surplus chooses the blocks a section can do without: those whose loss leaves the smallest cover, then those with the
// fewest leases, then the youngest. The default pool keeps one, and the block with the host's own address stays.
func surplus(bs []owned, s section, r room, uses map[netip.Prefix]use, host []netip.Addr, source string) (chosen []netip.Prefix) {
	var rest []netip.Prefix
	for _, b := range bs {
		if b.section() == s && b.stage == open {
			rest = append(rest, b.Prefix)
		}
	}
	for len(rest) > 1 || len(rest) == 1 && s.pool != ipam.DefaultPool {
		var best netip.Prefix
		var least int
		for _, b := range bs {
			u := uses[b.Prefix]
			if !slices.Contains(rest, b.Prefix) || b.unclaimed || b.Source != source || !r.spare(u.usable) || slices.Contains(host, b.Prefix.Addr()) {
				continue
			}
			cover := len(ipam.Cover(without(rest, b.Prefix)))
			if !best.IsValid() || cover < least || cover == least && u.leased <= uses[best].leased {
				best, least = b.Prefix, cover
			}
		}
		if !best.IsValid() {
			break
		}
		chosen, rest = append(chosen, best), without(rest, best)
		r.usable -= uses[best].usable
	}
	return chosen
}

// fits returns the judge of a growth: more blocks must fit the budget, on the way there too, and max_blocks.
func (k *Keeper) fits(s section) func(added []netip.Prefix) error {
	bs, told := slices.Clone(k.blocks), slices.Clone(k.told)
	budget, most := k.opts.Budget, k.opts.MaxBlocks
	return func(added []netip.Prefix) error {
		n := len(added)
		all := slices.Clone(added)
		for _, b := range bs {
			if b.section() == s && b.stage != lost {
				n++
			}
			if b.stage != lost && b.stage != leaving {
				all = append(all, b.Prefix)
			}
		}
		if most > 0 && n > most {
			return fmt.Errorf("%w: pool %s would give this host %d %s blocks, and ipam.max_blocks is %d", ipam.ErrBudget, s.pool, n, familyName(s.ipv6), most)
		}
		then := ipam.Cover(all)
		if key, n, budget := budget.exceeded(between(told, then, nil)); key != "" {
			return fmt.Errorf("%w: growth to %v would take %d prefixes in a ToR's table, for a moment at least, and %s is %d",
				ipam.ErrBudget, then, n, key, budget)
		}
		return nil
	}
}
