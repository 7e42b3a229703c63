package blocks

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// announce has the speaker announce the set. The quiet ones of it are for the ToRs alone (NO_ADVERTISE): they are about to be
// withdrawn in favour of others with the same addresses, and by then nobody else must know them any more. A ToR that
// loses a route looks for the ways that others had to it, over the spine to the other ToR and back, and would send packets in
// circles while these are withdrawn in their turn.
func (k *Keeper) announce(ctx context.Context, set, quiet []netip.Prefix) (why []string) {
	if k.telling && slices.Equal(set, k.told) && slices.Equal(quiet, k.quiet) {
		k.holdDone(k.holding)
		return nil
	}
	list := make([]bgp.Announcement, len(set))
	for i, p := range set {
		list[i] = bgp.Announcement{Prefix: p, Communities: slices.Clone(k.opts.Communities), LargeCommunities: k.opts.LargeCommunities}
		if slices.Contains(quiet, p) {
			list[i].Communities = append(list[i].Communities, bgp.NoAdvertise)
		}
	}
	if err := k.speaker.Announce(ctx, list); err != nil && !errors.Is(err, bgp.ErrDisconnected) {
		// It may follow the wish all the same, now or later: nothing of before or after is ruled out.
		k.telling, k.told = false, union(k.told, set)
		return []string{k.failure(ctx, "announcements not accepted by the speaker", err)}
	}
	k.log.Info("announcing", "prefixes", set, "no_advertise", quiet, "held", k.holding)
	k.telling, k.told, k.quiet = true, set, quiet
	k.holdDone(k.holding)
	return nil
}

// settle gives the ToRs time to follow, if there is anybody who could tell them. It is false if ctx has ended meanwhile.
func (k *Keeper) settle(ctx context.Context) bool {
	if k.opts.Settle == 0 || !k.speaker.Status().Connected {
		return ctx.Err() == nil
	}
	t := time.NewTimer(k.opts.Settle)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
