package blocks

import (
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// stage is where in its life a block is. Blocks come opening, then open; they go draining, then leaving.
type stage uint8

const (
	opening  stage = iota // its discard route and its announcement come before its first lease
	open                  // its addresses are handed out
	draining              // nothing new is leased from it, what is leased keeps it announced
	leaving               // without a lease, and to be withdrawn; given back when no address of it rests
	lost                  // another host has claimed it: neither announced nor handed out
)

var stageName = [...]string{"opening", "open", "draining", "leaving", "lost"}

// owned is a block of this host.
type owned struct {
	ipam.Block
	stage     stage
	released  bool // it goes for good: the configuration has it no more, or an operator said so
	unclaimed bool // this host takes it for its own by its record or configuration, and has to claim it
	missing   bool // unclaimed, and the source has said that it is not this host's
	withdrawn bool // no longer announced, while leaving
	returning bool // the source was asked to take it back
}

// state is the stage in a word for people. A block that drains because nobody needs it comes back under pressure; one that
// is released does not.
func (b owned) state() string {
	if b.released && b.stage == draining {
		return "released"
	}
	return stageName[b.stage]
}

// announced says whether the block belongs into the announcements.
func (b owned) announced() bool { return b.stage == open || b.stage == draining }

// pending says that the block is this host's by its configuration alone, so far.
func (b owned) pending() bool { return b.unclaimed && b.stage == opening }

func (b owned) ipv6() bool { return b.Prefix.Addr().Is6() }

// section is a pool of one family: what growth is about.
type section struct {
	pool string
	ipv6 bool
}

func (b owned) section() section { return section{b.Pool, b.ipv6()} }

// start is what a host finds when it starts.
type start struct {
	record     ipam.Record
	have       []ipam.Block // by the source
	heard      bool         // the source could be asked
	configured []ipam.Block // to be claimed by name
	source     string
	grows      bool
	leasedIn   func(netip.Prefix) bool
}

// blocks is what the host starts with. What it has had, by its record, it has still, unless the source knows better: a
// configuration that no longer has a block drains it; of a source that grows, the block is claimed again.
func (s start) blocks() []owned {
	var used []netip.Prefix // from which something may have been leased
	for _, r := range s.record.Blocks {
		if !r.Opening && !r.Lost {
			used = append(used, r.Prefix)
		}
	}
	var bs []owned
	for _, h := range s.have {
		b := owned{Block: named(h), stage: opening}
		if len(s.record.Blocks) == 0 || contains(used, b.Prefix) {
			b.stage = open // nothing is announced yet that could be interrupted, or it was open before
		}
		bs = append(bs, b)
	}
	for _, r := range s.record.Blocks {
		bs = append(bs, s.remembered(r, bs)...)
	}
	for _, c := range s.configured {
		for _, rest := range subtract(c.Prefix, prefixesOf(bs)) {
			c.Prefix = rest
			bs = append(bs, owned{Block: named(c), stage: opening, unclaimed: true, missing: true})
		}
	}
	for _, r := range s.record.Blocks {
		for i := range bs {
			switch b := &bs[i]; {
			case !s.grows || !r.Released || !r.Prefix.Overlaps(b.Prefix) || b.stage == lost:
			case r.Opening:
				b.stage, b.released = leaving, true
			case b.stage != opening:
				b.stage, b.released = draining, true
			}
		}
	}
	return bs
}

// remembered is what the host has of a recorded block that the source does not speak of.
func (s start) remembered(r ipam.RecordedBlock, bs []owned) []owned {
	known := prefixesOf(bs)
	replaced := false
	for _, b := range bs {
		if !r.Opening && b.stage == opening && b.Prefix != r.Prefix && b.Prefix.Overlaps(r.Prefix) {
			known = without(known, b.Prefix) // until the larger one is open, this one stays
			replaced = true
		}
	}
	var out []owned
	for _, rest := range subtract(r.Prefix, known) {
		b := owned{Block: named(ipam.Block{Prefix: rest, Pool: r.Pool, Source: r.Source}), stage: open}
		if r.Opening {
			b.stage = opening
		}
		switch {
		case r.Lost && (!s.grows || !s.leasedIn(rest)): // another host's, and nobody of this one lives in it
			continue
		case r.Lost:
			b.stage = lost
		case replaced:
		case !s.grows && r.Opening, s.heard && r.Opening: // it was never used, and is not ours any more
			continue
		case !s.grows:
			b.stage, b.released = draining, true
		case r.Source == s.source && !s.heard: // to be seen when the source answers
		case r.Source == s.source && r.Released && !s.leasedIn(rest): // given back; the crash came before the record
			continue
		default:
			b.unclaimed, b.missing = true, s.heard
		}
		out = append(out, b)
	}
	return out
}

// merge brings the blocks of a growing source up to date with what it says. Those that it no longer has were taken by
// somebody's hand: they are claimed again.
func merge(bs []owned, have []ipam.Block, source string) []owned {
	out := slices.Clone(bs)
	for i := range out {
		b := &out[i]
		has := slices.ContainsFunc(have, func(h ipam.Block) bool { return h.Prefix == b.Prefix })
		switch {
		case b.Source != source || has:
		case b.stage == leaving:
			b.released = true // it must not be taken back into use: by now it may be another's
		case b.stage != lost:
			b.unclaimed, b.missing = true, true
		}
	}
	for _, h := range have {
		out = adopt(out, named(h))
	}
	return out
}

// adopt adds a block that the source gave, beside what this host has of it so far, or in its place where it is the same.
func adopt(bs []owned, add ipam.Block) []owned {
	var out []owned
	found := false
	for _, b := range bs {
		var others []owned
		switch {
		case b.Prefix == add.Prefix:
			b.Block, b.unclaimed, b.missing, found = add, false, false, true
			if b.stage == lost {
				b.stage = opening
			}
		case add.Prefix.Overlaps(b.Prefix) && b.Prefix.Bits() < add.Prefix.Bits():
			// A part of a larger one, whose other parts come too.
			for _, rest := range subtract(b.Prefix, []netip.Prefix{add.Prefix}) {
				part := b
				part.Prefix = rest
				others = append(others, part)
			}
			b.Block, b.unclaimed, b.missing, found = add, false, false, true
			if b.stage == lost {
				b.stage = opening
			}
		case add.Prefix.Overlaps(b.Prefix): // a part of the new one, which takes its place when it is open
			b.unclaimed, b.missing = false, false
		}
		out = append(append(out, b), others...)
	}
	if !found {
		out = append(out, owned{Block: add, stage: opening})
	}
	return out
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
		if b.announced() || b.stage == opening && admitted(b) {
			ps = append(ps, b.Prefix)
		}
	}
	return ipam.Cover(ps)
}

// between is what is announced on the way from one set to another: the new one, and of the old one what shares addresses
// with it, so that no address is without a route for a moment. What has left altogether need not wait, and what covers
// a part of another host's must not.
func between(from, to, notOurs []netip.Prefix) []netip.Prefix {
	set := slices.Clone(to)
	for _, p := range from {
		if !slices.Contains(to, p) && overlaps(to, p) && !overlaps(notOurs, p) {
			set = append(set, p)
		}
	}
	slices.SortFunc(set, netip.Prefix.Compare)
	return set
}

func lostOf(bs []owned) []netip.Prefix {
	var ps []netip.Prefix
	for _, b := range bs {
		if b.stage == lost {
			ps = append(ps, b.Prefix)
		}
	}
	return ps
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
		if b.stage != lost && !b.pending() {
			ps = append(ps, b.Prefix)
		}
	}
	return ipam.Cover(ps)
}

// hostAddresses keeps each family's address while its block stays, and else takes that of the oldest block in which no
// container has it.
func hostAddresses(bs []owned, old []netip.Addr, leasedIn func(netip.Prefix) bool) []netip.Addr {
	var host []netip.Addr
	for _, ipv6 := range []bool{false, true} {
		var best netip.Addr
		rank := 0
		for _, b := range bs {
			addr := b.Prefix.Addr()
			r := 3
			switch {
			case b.ipv6() != ipv6 || b.stage > draining || b.pending() || leasedIn(netip.PrefixFrom(addr, addr.BitLen())):
				continue
			case b.released:
				r = 1
			case slices.Contains(old, addr):
				r = 4
			case b.stage == opening:
				r = 2
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
