package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/ipam"
)

// maxDelete is how many claims one transaction deletes.
const maxDelete = maxOps / 2

// Release gives back the claims of this host's ID that lie in prefixes: see ipam.Grower. Of a prefix longer than a base
// block nothing is given back. After an error some may be released; release them all again.
func (s *Source) Release(ctx context.Context, prefixes []netip.Prefix) error {
	done, err := s.turn(ctx)
	if err == nil {
		defer done()
		_, err = s.release(ctx, func(c Claim) bool { return s.mine(c) && within(c.Prefix, prefixes) })
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", list(prefixes), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.told {
		if within(p, prefixes) {
			delete(s.told, p)
		}
	}
	return nil
}

// ReleaseHost releases, for an operator, the claims of a host that is gone, and returns them; with an id only those of that
// installation of it. Without one it leaves those of this source's own ID, whose naming is an ipam.ErrOwnClaims. A host that
// still runs would go on using its addresses.
func (s *Source) ReleaseHost(ctx context.Context, host, id string) ([]Claim, error) {
	if host == "" {
		return nil, errors.New("release: the host has no name")
	}
	if id == s.id.ID {
		return nil, fmt.Errorf("release blocks of host %s: %w, by ID %s: use `hostfabric blocks release --all` instead",
			host, ipam.ErrOwnClaims, id)
	}
	meant := func(of string) bool { return of == id || id == "" && of != s.id.ID }
	released, err := s.release(ctx, func(c Claim) bool { return c.Host == host && meant(c.ID) })
	if err == nil {
		err = s.forget(ctx, host, meant)
	}
	if err != nil {
		return nil, fmt.Errorf("release blocks of host %s: some may be released: %w", host, err)
	}
	sortClaims(released)
	return released, nil
}

// release deletes the claims that which wants, each only as it was seen, and returns them. After an error some may be
// deleted.
func (s *Source) release(ctx context.Context, which func(Claim) bool) ([]Claim, error) {
	gone := map[string]Claim{}
	again := retry{first: contentionFirst, most: contentionMost}
	for tries := 1; ; {
		snap, err := s.read(ctx, s.keys.claims())
		if err != nil {
			return nil, err
		}
		doomed := slices.DeleteFunc(snap.claims, func(c claim) bool { return !which(c.Claim) })
		if len(doomed) == 0 {
			return slices.Collect(maps.Values(gone)), nil
		}
		for part := range slices.Chunk(doomed, maxDelete) {
			for _, c := range part {
				gone[c.key] = c.complete()
			}
			if err = s.delete(ctx, part); err != nil {
				break
			}
		}
		if err != nil {
			if !unsure(err) || tries == unsureTries {
				return nil, err
			}
			tries++
		}
		if !again.wait(ctx) {
			return nil, s.interrupted(ctx, err)
		}
	}
}

// delete deletes claims, all or none, if they are what they were; who calls it looks at what is left.
func (s *Source) delete(ctx context.Context, claims []claim) error {
	var conditions []clientv3.Cmp
	var deletes []clientv3.Op
	for _, c := range claims {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(c.key), "=", c.modified))
		deletes = append(deletes, clientv3.OpDelete(c.key))
	}
	_, err := s.transact(ctx, conditions, deletes...)
	return err
}
