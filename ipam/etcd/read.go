package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// snapshot is what etcd held at one revision.
type snapshot struct {
	registry registry
	revision int64 // at which the registry was last changed; 0: there is none
	claims   []claim
}

// read gets the registry and the claims whose keys begin with any of some prefixes, in one request.
func (s *Source) read(ctx context.Context, prefixes ...string) (*snapshot, error) {
	ops := []clientv3.Op{clientv3.OpGet(s.keys.registry())}
	for _, p := range prefixes {
		ops = append(ops, clientv3.OpGet(p, clientv3.WithPrefix()))
	}
	resp, err := s.query(ctx, ops...)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{}
	var text []byte
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		snap.revision, text = kv.ModRevision, kv.Value
	}
	if snap.registry, err = decodeRegistry(s.keys.registry(), text); err != nil {
		return nil, err
	}
	for _, r := range resp.Responses[1:] {
		for _, kv := range r.GetResponseRange().Kvs {
			c := claim{key: string(kv.Key), created: kv.CreateRevision, modified: kv.ModRevision}
			if c.Pool, c.Prefix, err = s.keys.parse(c.key); err != nil {
				return nil, err
			}
			h := decodeHolder(kv.Value)
			c.ID, c.Host, c.claimed = h.ID, h.Host, h.Claimed
			snap.claims = append(snap.claims, c)
		}
	}
	return snap, nil
}

// unsureTries is how often a transaction of unknown outcome is followed up before the caller is left to.
const unsureTries = 3

// ready reads, as read does, with these pools in the registry.
func (s *Source) ready(ctx context.Context, pools []ipam.Pool, prefixes ...string) (*snapshot, error) {
	for {
		snap, err := s.read(ctx, prefixes...)
		if err != nil {
			return nil, err
		}
		complete := true
		for _, p := range pools {
			_, changed, err := snap.registry.merge(p)
			if err != nil {
				return nil, err
			}
			complete = complete && !changed
		}
		if complete {
			return snap, nil
		}
		if err := s.register(ctx, pools); err != nil {
			return nil, err
		}
	}
}

// register puts the pools of this host into the registry: those that are needed, and of the rest what does not conflict.
func (s *Source) register(ctx context.Context, needed []ipam.Pool) error {
	again := retry{first: contentionFirst, most: contentionMost}
	for tries := 1; ; {
		snap, err := s.read(ctx, s.keys.claims())
		if err != nil {
			return err
		}
		next, changed := snap.registry, false
		for _, p := range s.pools {
			merged, more, err := next.merge(p)
			if err == nil && more {
				err = fits(p, snap.claims)
			}
			switch {
			case err == nil:
				next, changed = merged, changed || more
			case slices.ContainsFunc(needed, func(n ipam.Pool) bool { return n.Name == p.Name }):
				return err
			default:
				s.log.Warn("pool is not registered in etcd", "pool", p.Name, "err", err)
			}
		}
		if !changed {
			return nil
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(s.keys.registry()), "=", snap.revision)
		resp, err := s.transact(ctx, []clientv3.Cmp{unchanged}, clientv3.OpPut(s.keys.registry(), next.encode()))
		switch {
		case err == nil && resp.Succeeded:
			return nil
		case err != nil && (!unsure(err) || tries == unsureTries):
			return err
		case err != nil:
			tries++
		}
		if !again.wait(ctx) {
			return s.interrupted(ctx, err)
		}
	}
}

// interrupted is the error of a wait that ctx cut short, after err if there was one.
func (s *Source) interrupted(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("etcd at %s: too many hosts claim at once: %w", s.endpoints, context.Cause(ctx))
}

// Blocks returns what this host has claimed, in any pool, oldest first. Claims under its ID by a host of another name are not
// among them, see Claim.
func (s *Source) Blocks(ctx context.Context) ([]ipam.Block, error) {
	snap, err := s.read(ctx, s.keys.claims())
	if err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(snap.claims, func(c claim) bool { return !s.mine(c.Claim) })
	slices.SortFunc(own, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.created, b.created), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	blocks := make([]ipam.Block, 0, len(own))
	for _, c := range own {
		blocks = append(blocks, s.learn(c.Pool, []netip.Prefix{c.Prefix})...)
	}
	return blocks, nil
}

// Claims returns those of the whole fabric, by pool and address.
func (s *Source) Claims(ctx context.Context) ([]Claim, error) {
	return s.claimsOf(ctx, func(Claim) bool { return true })
}

func (s *Source) claimsOf(ctx context.Context, want func(Claim) bool) ([]Claim, error) {
	snap, err := s.read(ctx, s.keys.claims())
	if err != nil {
		return nil, err
	}
	var claims []Claim
	for _, c := range snap.claims {
		if want(c.Claim) {
			claims = append(claims, c.complete())
		}
	}
	sortClaims(claims)
	return claims, nil
}

func sortClaims(claims []Claim) {
	slices.SortFunc(claims, func(a, b Claim) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), a.Prefix.Compare(b.Prefix))
	})
}

// Siblings tells of each prefix's sibling, as of now.
func (s *Source) Siblings(ctx context.Context, prefixes []netip.Prefix) (map[netip.Prefix]ipam.Sibling, error) {
	snap, err := s.read(ctx, s.keys.claims())
	if err != nil {
		return nil, err
	}
	siblings := make(map[netip.Prefix]ipam.Sibling, len(prefixes))
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, errors.New("siblings: a prefix is empty")
		}
		siblings[p] = s.sibling(p.Masked(), snap.claims)
	}
	return siblings, nil
}

func (s *Source) sibling(p netip.Prefix, claims []claim) ipam.Sibling {
	prefix, ok := siblingOf(p)
	sibling := ipam.Sibling{Prefix: prefix, State: ipam.SiblingOutside}
	if !ok || !slices.ContainsFunc(s.pools, func(pool ipam.Pool) bool {
		space := spaceOf(pool, p.Addr().Is6())
		return within(p, space) && within(prefix, space)
	}) {
		return sibling
	}
	var own []netip.Prefix
	for _, c := range claims {
		switch {
		case !c.Prefix.Overlaps(prefix):
		case !s.mine(c.Claim):
			sibling.State, sibling.Host = ipam.SiblingTaken, c.Host
			return sibling
		default:
			own = append(own, c.Prefix)
		}
	}
	sibling.State = ipam.SiblingFree
	if within(prefix, ipam.Cover(own)) {
		sibling.State = ipam.SiblingOwn
	}
	return sibling
}
