package blocks

import "context"

// Hold has the keeper announce nothing, or announce the blocks again; it waits for nothing. Leases, discard routes and the
// host's own routes to its containers do not change with it. Before Run it is what a host starts with.
func (k *Keeper) Hold(withdrawn bool) {
	k.mu.Lock()
	k.hold = withdrawn
	k.mu.Unlock()
	k.Kick()
}

// HoldNow is Hold that waits until the speaker has been told and ToRs had time to follow. It is ErrStopped if Run has ended.
func (k *Keeper) HoldNow(ctx context.Context, withdrawn bool) error {
	k.Hold(withdrawn)
	for {
		k.mu.Lock()
		done, changed := k.heldNow == withdrawn && k.hold == withdrawn, k.holdTold
		k.mu.Unlock()
		if done {
			if !k.settle(ctx) {
				return ctx.Err()
			}
			return nil
		}
		select {
		case <-changed:
		case <-k.ended:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (k *Keeper) wantsHold() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hold
}

// holdDone makes known what the speaker was told.
func (k *Keeper) holdDone(withdrawn bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.heldNow != withdrawn {
		k.heldNow = withdrawn
		close(k.holdTold)
		k.holdTold = make(chan struct{})
	}
}
