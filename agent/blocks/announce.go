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
func (k *Keeper) announce(ctx context.Context, set, quiet []netip.Prefix, because cause) (why []string) {
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
	k.giveReasons(set, because)
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

// cause is what keeps prefixes from being announced.
type cause struct {
	gate     error // all of them; nil: nothing
	held     bool  // all of them, too
	unsteady map[netip.Prefix]error
}

// of says why a prefix goes from the announcements, which are a set then.
func (c cause) of(p netip.Prefix, set []netip.Prefix) string {
	i := slices.IndexFunc(set, p.Overlaps)
	switch {
	case c.held:
		return "drain"
	case c.gate != nil:
		return "health gate: " + c.gate.Error()
	case c.unsteady[p] != nil:
		return "its discard route is not in the kernel: " + c.unsteady[p].Error()
	case i >= 0 && within(p, set[i]):
		return "growth: " + set[i].String() + " has taken its place"
	case i >= 0:
		return "shrink: of it, " + set[i].String() + " is left"
	}
	return "its block has left"
}

// giveReasons notes why the announcements change to a set, before they do.
func (k *Keeper) giveReasons(set []netip.Prefix, because cause) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range minus(k.told, set) {
		k.reasons[p] = because.of(p, set)
	}
	for p := range k.reasons {
		if slices.Contains(set, p) {
			delete(k.reasons, p)
		}
	}
	for len(k.reasons) > maxReasons {
		for p := range k.reasons {
			delete(k.reasons, p)
			break
		}
	}
}

// maxReasons bounds for how many prefixes it is known why they are not announced: far more than are announced at any time.
const maxReasons = 256

// WhyWithdrawn says why a prefix is not announced any more; empty if this run has never had it announced, or not lately.
func (k *Keeper) WhyWithdrawn(p netip.Prefix) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reasons[p]
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
