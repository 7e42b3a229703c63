package blocks

import (
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// stage is where in its life a block is. Blocks come opening, then open; they go draining or released, then leaving.
type stage uint8

const (
	opening  stage = iota // its discard route and its announcement come before its first lease
	open                  // its addresses are handed out
	draining              // not needed: nothing new is leased, but it comes back when addresses run short
	released              // removed from the configuration or by an operator: nothing new is leased any more
	leaving               // without a lease, and withdrawn; given back when no address of it rests
	lost                  // another host has claimed it: neither announced nor handed out
)

var stageName = [...]string{"opening", "open", "draining", "released", "leaving", "lost"}

func (s stage) String() string { return stageName[s] }

// announced says whether a block of this stage belongs into the announcements.
func (s stage) announced() bool { return s == open || s == draining || s == released }

// owned is a block of this host.
type owned struct {
	ipam.Block
	stage stage
	// unclaimed: this host takes it for its own by its record or configuration, but the source does not say so.
	unclaimed bool
	withdrawn bool // no longer announced, while leaving
	returning bool // the source was asked to take it back
}

// pending says that the block is this host's by its configuration alone, so far.
func (b owned) pending() bool { return b.unclaimed && b.stage == opening }

func (b owned) ipv6() bool { return b.Prefix.Addr().Is6() }

// section is a pool of one family: what growth is about.
type section struct {
	pool string
	ipv6 bool
}

func (b owned) section() section { return section{b.Pool, b.ipv6()} }

// initial is what a host starts with. What it has had, by its record, it has still, unless the source knows better: a
// configuration that no longer has a block drains it; of a source that grows, the block is claimed again. heard is false if the
// source could not be asked.
func initial(record []ipam.RecordedBlock, have, configured []ipam.Block, source string, grower ipam.Grower, heard bool) []owned {
	var bs []owned
	before := recordedPrefixes(record)
	for _, b := range have {
		st := opening
		if len(record) == 0 || contains(before, b.Prefix) {
			st = open // nothing is announced yet that could be interrupted, or it was open before
		}
		bs = append(bs, owned{Block: named(b), stage: st})
	}
	for _, r := range record {
		for _, rest := range subtract(r.Prefix, prefixesOf(bs)) {
			b := owned{Block: named(ipam.Block{Prefix: rest, Pool: r.Pool, Source: r.Source}), stage: open}
			switch {
			case grower == nil:
				b.stage = released
			case r.Source == source && !heard: // to be seen when the source answers
			default:
				b.unclaimed = true
			}
			bs = append(bs, b)
		}
	}
	for _, c := range configured {
		for _, rest := range subtract(c.Prefix, prefixesOf(bs)) {
			c.Prefix = rest
			bs = append(bs, owned{Block: named(c), stage: opening, unclaimed: true})
		}
	}
	for _, r := range record {
		if !r.Released {
			continue
		}
		for i := range bs {
			if grower != nil && r.Prefix.Overlaps(bs[i].Prefix) {
				bs[i].stage = released
			}
		}
	}
	return bs
}

// merge brings the blocks of a growing source up to date with what it says. Those that it no longer has were taken by
// somebody's hand: they are claimed again.
func merge(bs []owned, have []ipam.Block, source string) []owned {
	out := slices.Clone(bs)
	for i := range out {
		b := &out[i]
		missing := !slices.ContainsFunc(have, func(h ipam.Block) bool { return h.Prefix == b.Prefix })
		switch {
		case b.Source != source || b.stage == leaving:
		case missing && b.stage != lost:
			b.unclaimed = true
		case !missing && b.stage == lost:
			b.stage, b.unclaimed = opening, false
		case !missing:
			b.unclaimed = false
		}
	}
	for _, h := range have {
		out = adopt(out, named(h))
	}
	return out
}

// adopt adds a block that the source gave, in place of what this host has of it so far.
func adopt(bs []owned, add ipam.Block) []owned {
	st := opening
	var out []owned
	for _, b := range bs {
		switch {
		case b.Prefix == add.Prefix && b.Source == add.Source:
			return bs
		case b.Prefix == add.Prefix:
			st = b.stage
		case add.Prefix.Overlaps(b.Prefix) && b.Prefix.Bits() < add.Prefix.Bits():
			// A part of a larger one, whose other parts come too.
			st = b.stage
			for _, rest := range subtract(b.Prefix, []netip.Prefix{add.Prefix}) {
				part := b
				part.Prefix = rest
				out = append(out, part)
			}
		case add.Prefix.Overlaps(b.Prefix): // it grows: what is new of it is announced before it is handed out
		default:
			out = append(out, b)
		}
	}
	if st == lost {
		st = opening
	}
	return append(out, owned{Block: add, stage: st})
}

func named(b ipam.Block) ipam.Block {
	if b.Pool == "" {
		b.Pool = ipam.DefaultPool
	}
	return b
}

// target is what is to be announced: the cover of the blocks that are open, or on their way out with leases in them, and
// of those about to be opened.
func target(bs []owned, admitted func(owned) bool) []netip.Prefix {
	var ps []netip.Prefix
	for _, b := range bs {
		if b.stage.announced() || b.stage == opening && admitted(b) {
			ps = append(ps, b.Prefix)
		}
	}
	return ipam.Cover(ps)
}

// between is what is announced on the way from one set to another: the new one, and of the old one what shares addresses
// with it, so that no address is without a route for a moment. What has left altogether need not wait.
func between(from, to []netip.Prefix) []netip.Prefix {
	set := slices.Clone(to)
	for _, p := range from {
		if !slices.Contains(to, p) && overlaps(to, p) {
			set = append(set, p)
		}
	}
	slices.SortFunc(set, netip.Prefix.Compare)
	return set
}

// union is all that is in either.
func union(a, b []netip.Prefix) []netip.Prefix {
	set := slices.Concat(a, b)
	slices.SortFunc(set, netip.Prefix.Compare)
	return slices.Compact(set)
}

// minus is what is in one set and not in the other.
func minus(a, b []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(a), func(p netip.Prefix) bool { return slices.Contains(b, p) })
}

func (b Budget) exceeded(set []netip.Prefix) (key string, n, budget int) {
	var ipv4, ipv6 int
	for _, p := range set {
		if p.Addr().Is4() {
			ipv4++
		} else {
			ipv6++
		}
	}
	switch {
	case ipv4 > b.IPv4:
		return "budget.ipv4", ipv4, b.IPv4
	case ipv6 > b.IPv6:
		return "budget.ipv6", ipv6, b.IPv6
	}
	return "", 0, 0
}

// ownSpace is what nobody else may announce.
func ownSpace(bs []owned) []netip.Prefix {
	var ps []netip.Prefix
	for _, b := range bs {
		if b.stage != lost {
			ps = append(ps, b.Prefix)
		}
	}
	return ipam.Cover(ps)
}

// hostAddresses keeps each family's address while its block stays, and else takes that of the oldest block in which no
// container has it.
func hostAddresses(bs []owned, old []netip.Addr, leased func(netip.Addr) bool) []netip.Addr {
	var host []netip.Addr
	for _, ipv6 := range []bool{false, true} {
		var best netip.Addr
		rank := 0
		for _, b := range bs {
			addr := b.Prefix.Addr()
			r := 2
			switch {
			case b.ipv6() != ipv6 || b.stage > released || leased(addr):
				continue
			case b.stage == released:
				r = 1
			case slices.Contains(old, addr):
				r = 3
			}
			if r > rank {
				best, rank = addr, r
			}
		}
		if rank > 0 {
			host = append(host, best)
		}
	}
	return host
}

func prefixesOf(bs []owned) []netip.Prefix {
	ps := make([]netip.Prefix, len(bs))
	for i, b := range bs {
		ps[i] = b.Prefix
	}
	return ps
}

func recordedPrefixes(record []ipam.RecordedBlock) []netip.Prefix {
	ps := make([]netip.Prefix, len(record))
	for i, r := range record {
		ps[i] = r.Prefix
	}
	return ps
}

func overlaps(set []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(set, p.Overlaps)
}

// contains says whether one prefix of the set contains all of p, or the set together does.
func contains(set []netip.Prefix, p netip.Prefix) bool { return len(subtract(p, set)) == 0 }

// subtract returns what of p is in none of the set.
func subtract(p netip.Prefix, set []netip.Prefix) []netip.Prefix {
	i := slices.IndexFunc(set, p.Overlaps)
	switch {
	case i < 0:
		return []netip.Prefix{p}
	case set[i].Bits() <= p.Bits():
		return nil
	}
	low, high := halves(p)
	return append(subtract(low, set), subtract(high, set)...)
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	low = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	last := p.Addr().AsSlice()
	last[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(last)
	return low, netip.PrefixFrom(addr, p.Bits()+1)
}
