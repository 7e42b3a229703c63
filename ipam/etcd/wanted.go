package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/ipam"
)

// maxWanted is how many base blocks one Claim may name, those included that this host has.
const maxWanted = 1 << 12

// wanted are base blocks of one pool that a Claim names.
type wanted struct {
	pool   ipam.Pool
	blocks []netip.Prefix
}

// Claim claims the base blocks of given prefixes: see ipam.Grower. An empty pool means for each prefix the one that has it.
// The blocks that this host does not have yet are claimed all or none if they are at most 127. More, up to 4,096 blocks with
// those that it has, are claimed 127 at a time. Nothing is claimed if one of them is taken at the start; what was claimed when a
// later part fails, perhaps because another host has claimed one meanwhile, stays this host's, and Blocks lists it. Try again:
// only what is missing is claimed then. A block that is claimed under this host's ID and another name becomes this host's,
// once: the host was renamed.
func (s *Source) Claim(ctx context.Context, pool string, prefixes []netip.Prefix) ([]ipam.Block, error) {
	blocks, err := s.claimWanted(ctx, pool, prefixes)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", list(prefixes), err)
	}
	return blocks, nil
}

func (s *Source) claimWanted(ctx context.Context, pool string, prefixes []netip.Prefix) ([]ipam.Block, error) {
	all, err := s.widen(pool, prefixes)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	var pools []ipam.Pool
	var ranges []string
	for _, w := range all {
		pools = append(pools, w.pool)
		for _, p := range w.blocks {
			if r := s.keys.area(areaOf(w.pool.Name, p)); !slices.Contains(ranges, r) {
				ranges = append(ranges, r)
			}
		}
	}
	done, err := s.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if n, err := s.claimMissing(ctx, all, pools, ranges); err != nil && n > 0 {
		return nil, fmt.Errorf("%d of its blocks were claimed and stay so: %w", n, err)
	} else if err != nil {
		return nil, err
	}
	var blocks []ipam.Block
	for _, w := range all {
		blocks = append(blocks, s.learn(w.pool.Name, w.blocks)...)
	}
	return blocks, nil
}

// claimMissing returns how many blocks it claimed, as far as is known; those are this host's after an error too.
func (s *Source) claimMissing(ctx context.Context, all []wanted, pools []ipam.Pool, ranges []string) (claimed int, err error) {
	again := retry{first: contentionFirst, most: contentionMost}
	for tries := 1; ; {
		snap, err := s.ready(ctx, pools, ranges...)
		if err != nil {
			return claimed, err
		}
		missing, revisions, err := s.missing(snap, all)
		if err != nil || len(missing) == 0 {
			return claimed, err
		}
		n, err := s.claimParts(ctx, snap, missing, revisions)
		claimed += n
		switch {
		case n == len(missing):
			return claimed, nil
		case err != nil && (!unsure(err) || tries == unsureTries):
			return claimed, err
		case err != nil:
			tries++
		}
		if !again.wait(ctx) {
			return claimed, s.interrupted(ctx, err)
		}
	}
}

// claimParts claims keys in as few transactions as can be, and returns how many it has claimed when one fails or is lost to
// another host.
func (s *Source) claimParts(ctx context.Context, snap *snapshot, names []string, revisions map[string]int64) (claimed int, err error) {
	for part := range slices.Chunk(names, maxClaim) {
		won, err := s.claim(ctx, snap, part, revisions)
		if err != nil || !won {
			return claimed, err
		}
		claimed += len(part)
	}
	return claimed, nil
}

// missing returns the keys that are this host's not yet, and the revisions of those that are its under an earlier name. Those
// of other hosts are an ErrTaken; so is one that this host has had under this name, and that somebody else of its ID
// has taken over.
func (s *Source) missing(snap *snapshot, all []wanted) (missing []string, revisions map[string]int64, err error) {
	own := make(map[string]bool)
	revisions = make(map[string]int64)
	var aliens []claim
	for _, c := range snap.claims {
		switch {
		case s.mine(c.Claim):
			own[c.key] = true
		case c.ID == s.id.ID && !s.knows(c.Prefix):
			revisions[c.key] = c.modified
		default:
			aliens = append(aliens, c)
		}
	}
	for _, w := range all {
		for i, name := range s.keysOf(w.pool.Name, w.blocks) {
			if own[name] {
				continue
			}
			if j := slices.IndexFunc(aliens, func(c claim) bool { return c.Prefix.Overlaps(w.blocks[i]) }); j >= 0 {
				return nil, nil, fmt.Errorf("%w: %s by %s", ipam.ErrTaken, aliens[j].Prefix, aliens[j].holder())
			}
			missing = append(missing, name)
		}
	}
	return missing, revisions, nil
}

// widen finds the base blocks that prefixes are in or consist of, by pool and address.
func (s *Source) widen(name string, prefixes []netip.Prefix) ([]wanted, error) {
	var all []wanted
	n := 0
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, errors.New("a prefix is empty")
		}
		p = p.Masked()
		pool, err := s.poolOf(name, p)
		if err != nil {
			return nil, err
		}
		length := base(pool, p.Addr().Is6())
		if p.Bits() > length {
			p = netip.PrefixFrom(p.Addr(), length).Masked()
		}
		if more := length - p.Bits(); more > 12 || n+1<<more > maxWanted {
			return nil, fmt.Errorf("more than %d blocks of /%d: claim them in parts", maxWanted, length)
		}
		i := slices.IndexFunc(all, func(w wanted) bool { return w.pool.Name == pool.Name })
		if i < 0 {
			i, all = len(all), append(all, wanted{pool: pool})
		}
		for b := range baseBlocks(p, length) {
			all[i].blocks = append(all[i].blocks, b)
			n++
		}
	}
	for i, w := range all {
		slices.SortFunc(w.blocks, netip.Prefix.Compare)
		all[i].blocks = slices.Compact(w.blocks)
	}
	return all, nil
}

func (s *Source) poolOf(name string, p netip.Prefix) (ipam.Pool, error) {
	if name == "" {
		for _, pool := range s.pools {
			if within(p, spaceOf(pool, p.Addr().Is6())) {
				return pool, nil
			}
		}
		return ipam.Pool{}, fmt.Errorf("%w: none has %s", ipam.ErrUnknownPool, p)
	}
	pool, err := s.pool(name)
	if err == nil && !within(p, spaceOf(pool, p.Addr().Is6())) {
		err = fmt.Errorf("%s is not in pool %s, which has %s", p, name, list(pool.Prefixes))
	}
	return pool, err
}

func list(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}
