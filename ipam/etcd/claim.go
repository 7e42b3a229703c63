package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// maxOps is how many operations, and comparisons, etcd takes in a transaction by default (its --max-txn-ops).
const maxOps = 128

// maxClaim is how many claims one transaction makes: the registry is compared besides.
const maxClaim = maxOps - 1

// Waits after a race that another host won.
const (
	contentionFirst = 20 * time.Millisecond
	contentionMost  = 500 * time.Millisecond
)

// Grow claims one or more base blocks: see ipam.Grower. g.Have must have all that this source has told of and that was not
// released.
func (s *Source) Grow(ctx context.Context, g ipam.Growth) ([]ipam.Block, error) {
	pool, err := s.pool(g.Pool)
	if err != nil {
		return nil, err
	}
	a := area{pool.Name, g.IPv6}
	if base(pool, g.IPv6) == 0 || len(spaceOf(pool, g.IPv6)) == 0 {
		return nil, fmt.Errorf("%w: pool %s has no %s", ipam.ErrUnknownPool, pool.Name, a.title())
	}
	done, err := s.turn(ctx)
	if err != nil {
		return nil, fmt.Errorf("grow in pool %s: %w", pool.Name, err)
	}
	defer done()
	blocks, err := s.grow(ctx, pool, a, g)
	if err != nil {
		return nil, fmt.Errorf("grow in pool %s: %w", pool.Name, err)
	}
	return s.learn(pool.Name, blocks), nil
}

func (s *Source) grow(ctx context.Context, pool ipam.Pool, a area, g ipam.Growth) ([]netip.Prefix, error) {
	again := retry{first: contentionFirst, most: contentionMost}
	// The first place while nobody else wants it; any of those as good once somebody does, or all would meet again.
	pick := func(int) int { return 0 }
	for tries := 1; ; {
		snap, err := s.ready(ctx, []ipam.Pool{pool}, s.keys.area(a))
		if err != nil {
			return nil, err
		}
		blocks, mine, err := s.choose(snap, pool, a, g, pick)
		if err != nil || mine {
			return blocks, err
		}
		won, err := s.claim(ctx, snap, s.keysOf(pool.Name, blocks), nil)
		switch {
		case won:
			delete(s.unsettled, a)
			return blocks, nil
		case err == nil:
			delete(s.unsettled, a)
			pick = rand.IntN
		case !unsure(err):
			return nil, err
		default:
			s.unsettled[a] = blocks
			if tries++; tries > unsureTries {
				return nil, err
			}
		}
		if !again.wait(ctx) {
			return nil, s.interrupted(ctx, err)
		}
	}
}

// choose returns the blocks to claim, or, if mine, those that are this host's already without its having been told.
func (s *Source) choose(snap *snapshot, pool ipam.Pool, a area, g ipam.Growth, pick func(int) int) (blocks []netip.Prefix, mine bool, err error) {
	fits := g.Fits
	if fits == nil {
		fits = func([]netip.Prefix) error { return nil }
	}
	l := layout{space: spaceOf(pool, a.ipv6), base: base(pool, a.ipv6)}
	for _, p := range g.Have {
		if p.IsValid() && overlapsAny(p, l.space) {
			l.own = append(l.own, p.Masked())
		}
	}
	var untold []netip.Prefix
	for _, c := range snap.claims {
		switch {
		case !s.mine(c.Claim):
			l.alien = append(l.alien, c.Prefix)
		case !within(c.Prefix, l.own) && !s.knows(c.Prefix):
			untold = append(untold, c.Prefix)
		}
	}
	if len(untold) > 0 && fits(untold) == nil {
		delete(s.unsettled, a)
		return untold, true, nil
	}
	for _, c := range snap.claims {
		if s.mine(c.Claim) && !within(c.Prefix, l.own) {
			l.own = append(l.own, c.Prefix)
		}
	}
	if last := s.unsettled[a]; len(last) > 0 && l.free(last) && fits(last) == nil {
		return last, false, nil
	}
	candidates := l.candidates(pick)
	if len(candidates) == 0 {
		return nil, false, fmt.Errorf("%w: all %s blocks of /%d in its %s prefixes are claimed", ipam.ErrPoolFull,
			blockCount(l.space, l.base), l.base, a.title())
	}
	for _, c := range candidates {
		reason := fits(c.blocks)
		if reason == nil {
			return c.blocks, false, nil
		}
		if err == nil {
			err = reason
		}
	}
	return nil, false, err
}

func (l layout) free(blocks []netip.Prefix) bool {
	return !slices.ContainsFunc(blocks, func(p netip.Prefix) bool { return overlapsAny(p, l.own) || overlapsAny(p, l.alien) })
}

func (s *Source) knows(p netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, told := s.told[p]
	return told
}

// turn waits for the right to change what this host has. One change at a time: what another has claimed but not told of
// yet would look like a claim whose outcome had been unknown.
func (s *Source) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.changing <- struct{}{}:
		return func() { <-s.changing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another claim or release goes on: %w", context.Cause(ctx))
	}
}

func (s *Source) keysOf(pool string, blocks []netip.Prefix) []string {
	names := make([]string, len(blocks))
	for i, p := range blocks {
		names[i] = s.keys.claim(pool, p)
	}
	return names
}

// mine says whether a claim is this host's: by its ID and its name, for two machines may have come to have one ID.
func (s *Source) mine(c Claim) bool { return c.ID == s.id.ID && c.Host == s.id.Host }

// claim makes keys this host's, if each is at the revision given for it, 0 for one that does not exist, and the registry is
// the snapshot's.
func (s *Source) claim(ctx context.Context, snap *snapshot, names []string, revisions map[string]int64) (won bool, err error) {
	value := holder{s.id.ID, s.id.Host, time.Now().UTC().Format(time.RFC3339)}.encode()
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.keys.registry()), "=", snap.revision)}
	var puts []clientv3.Op
	for _, name := range names {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(name), "=", revisions[name]))
		puts = append(puts, clientv3.OpPut(name, value))
	}
	resp, err := s.transact(ctx, conditions, puts...)
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}
