package blocks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// waiter is an attach that found no address.
type waiter struct {
	pool string
	done chan error // capacity 1
}

// ErrNotClaimed says that a prefix is no block that this host has claimed.
var ErrNotClaimed = errors.New("not a claimed block of this host")

// ErrStopped says that the keeper's Run has ended.
var ErrStopped = errors.New("the agent is stopping")

// ErrNoGrowth says that a pool has as many addresses as it ever will.
var ErrNoGrowth = errors.New("the pool's blocks do not grow")

// Opened counts what an attach that found no address may be helped by.
func (k *Keeper) Opened() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.opened
}

// Await waits until a pool has more addresses than when Opened was opened. It fails with ErrNoGrowth where that will
// not come to pass, and with what went wrong where the last attempt to grow failed.
func (k *Keeper) Await(ctx context.Context, pool string, opened uint64) error {
	if pool == "" {
		pool = ipam.DefaultPool
	}
	w := &waiter{pool: pool, done: make(chan error, 1)}
	k.mu.Lock()
	switch f := k.failed[pool]; {
	case k.opened != opened:
		k.mu.Unlock()
		return nil
	case !k.grows(pool):
		k.mu.Unlock()
		return ErrNoGrowth
	case f != nil && time.Now().Before(f.until):
		k.mu.Unlock()
		return fmt.Errorf("the host gets no more blocks: %w", f.err)
	}
	k.waiters[w] = struct{}{}
	k.mu.Unlock()
	k.Kick()
	select {
	case err := <-w.done:
		return err
	case <-k.ended:
		return ErrStopped
	case <-ctx.Done():
		k.mu.Lock()
		delete(k.waiters, w)
		k.mu.Unlock()
		return fmt.Errorf("waiting for another block of pool %s: %w", pool, ctx.Err())
	}
}

// grows says whether a pool can have more addresses. Caller holds mu.
func (k *Keeper) grows(pool string) bool {
	if k.handing || slices.ContainsFunc(k.blocks, func(b owned) bool { return b.Pool == pool && b.stage == opening }) {
		return true
	}
	return k.grower != nil && !k.retired && slices.ContainsFunc(k.grower.Pools(), func(p ipam.Pool) bool { return p.Name == pool })
}

// waiting counts those who wait, by pool.
func (k *Keeper) waiting() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := make(map[string]int)
	for w := range k.waiters {
		n[w.pool]++
	}
	return n
}

// serve has those who wait for one of the pools try again.
func (k *Keeper) serve(pools map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened++
	for w := range k.waiters {
		if pools[w.pool] {
			w.done <- nil
			delete(k.waiters, w)
		}
	}
}

// disappoint tells those who wait for a pool that it does not grow, and those who come before the next attempt.
func (k *Keeper) disappoint(pool string, r *refusal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed[pool] = r
	for w := range k.waiters {
		if w.pool == pool {
			w.done <- fmt.Errorf("the host gets no more blocks: %w", r.err)
			delete(k.waiters, w)
		}
	}
}

// disappointAll tells all who wait that what they wait for cannot be opened now.
func (k *Keeper) disappointAll(err error) {
	for pool := range k.waiting() {
		k.disappoint(pool, &refusal{err: err, until: time.Now().Add(minRetry)})
	}
}

// dismiss ends all waiting.
func (k *Keeper) dismiss(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.waiters {
		w.done <- err
		delete(k.waiters, w)
	}
}
