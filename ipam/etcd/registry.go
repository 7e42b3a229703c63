package etcd

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/ipam"
)

// ErrConflict is that this host's pools and those of the fabric cannot both be right.
var ErrConflict = errors.New("pools of this host conflict with those of the fabric")

// checkPool finds what is wrong with a pool on its own.
func checkPool(p ipam.Pool) error {
	if err := ipam.ValidPool(p.Name); err != nil {
		return err
	}
	for i, prefix := range p.Prefixes {
		switch bits := base(p, prefix.Addr().Is6()); {
		case !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6():
			return fmt.Errorf("pool %s: %s is not the prefix of a network", p.Name, prefix)
		case bits == 0:
			return fmt.Errorf("pool %s has %s but no length of its blocks for that family", p.Name, prefix)
		case bits < prefix.Bits() || bits > prefix.Addr().BitLen():
			return fmt.Errorf("pool %s: a block of /%d is not in %s: make the block as long as the prefix or longer", p.Name, bits, prefix)
		}
		for _, other := range p.Prefixes[:i] {
			if prefix.Overlaps(other) {
				return fmt.Errorf("pool %s: %s overlaps %s: remove one", p.Name, prefix, other)
			}
		}
	}
	return nil
}

// checkPools finds what is wrong with the pools of one host.
func checkPools(pools []ipam.Pool) error {
	merged := registry{}
	for _, p := range pools {
		if err := checkPool(p); err != nil {
			return err
		}
		if _, double := merged[p.Name]; double {
			return fmt.Errorf("pool %s is there twice", p.Name)
		}
		next, _, err := merged.merge(p)
		if err != nil {
			return err
		}
		merged = next
	}
	return nil
}

// merge returns the registry with a pool of this host in it, and whether that is another. The error is an ErrConflict.
func (r registry) merge(p ipam.Pool) (registry, bool, error) {
	was, known := r[p.Name]
	now := registered{slices.Clone(was.Prefixes), cmp.Or(was.BaseIPv4, p.BaseIPv4), cmp.Or(was.BaseIPv6, p.BaseIPv6)}
	for _, f := range []struct{ here, there int }{{p.BaseIPv4, was.BaseIPv4}, {p.BaseIPv6, was.BaseIPv6}} {
		if f.here != 0 && f.there != 0 && f.here != f.there {
			return nil, false, fmt.Errorf("%w: pool %s has blocks of /%d here and of /%d in the fabric: give this host the fabric's, "+
				"or the pool another name", ErrConflict, p.Name, f.here, f.there)
		}
	}
	for _, prefix := range p.Prefixes {
		if slices.Contains(now.Prefixes, prefix) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(r)) {
			for _, other := range r[name].Prefixes {
				if prefix.Overlaps(other) {
					return nil, false, fmt.Errorf("%w: %s of pool %s overlaps %s, which is in pool %s of the fabric: "+
						"give this host the fabric's prefixes, and others besides", ErrConflict, prefix, p.Name, other, name)
				}
			}
		}
		now.Prefixes = append(now.Prefixes, prefix)
	}
	same := known && len(now.Prefixes) == len(was.Prefixes) && now.BaseIPv4 == was.BaseIPv4 && now.BaseIPv6 == was.BaseIPv6
	if same {
		return r, false, nil
	}
	slices.SortFunc(now.Prefixes, netip.Prefix.Compare)
	next := maps.Clone(r)
	next[p.Name] = now
	return next, true, nil
}

// fits checks a pool that is new to the registry against claims that were made while the registry was another: those who
// claim rely on the fabric's pools alone to keep blocks of different pools and lengths apart.
func fits(p ipam.Pool, claims []claim) error {
	for _, c := range claims {
		for _, prefix := range p.Prefixes {
			if c.Prefix.Overlaps(prefix) && (c.Pool != p.Name || c.Prefix.Bits() != base(p, prefix.Addr().Is6())) {
				return fmt.Errorf("%w: %s of pool %s overlaps %s, which %s has claimed in pool %s: release that first",
					ErrConflict, prefix, p.Name, c.Prefix, c.holder(), c.Pool)
			}
		}
	}
	return nil
}
