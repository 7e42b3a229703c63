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
	list := k.announcements(set, quiet)
	if k.telling && slices.EqualFunc(list, k.said, sameAnnouncement) {
		k.holdDone(k.holding)
		return nil
	}
	k.giveReasons(set, because)
	if err := k.speaker.Announce(ctx, list); err != nil && !errors.Is(err, bgp.ErrDisconnected) {
		// It may follow the wish all the same, now or later: nothing of before or after is ruled out.
		k.telling, k.told = false, union(k.told, set)
		return []string{k.failure(ctx, "announcements not accepted by the speaker", err)}
	}
	k.log.Info("announcing", "prefixes", set, "no_advertise", quiet, "held", k.holding)
	k.telling, k.told, k.said = true, set, list
	k.holdDone(k.holding)
	return nil
}

// announcements are the prefixes with all that they carry. The host's addresses are those that who follows has been told: they
// are in use before anybody hears of them.
func (k *Keeper) announcements(set, quiet []netip.Prefix) []bgp.Announcement {
	list := make([]bgp.Announcement, len(set))
	for i, p := range set {
		list[i] = bgp.Announcement{Prefix: p, Communities: slices.Clone(k.opts.Communities), LargeCommunities: slices.Clone(k.opts.LargeCommunities)}
		if k.opts.Mark != nil {
			list[i].LargeCommunities = append(list[i].LargeCommunities, k.opts.Mark(p, k.followed.host)...)
		}
		if slices.Contains(quiet, p) {
			list[i].Communities = append(list[i].Communities, bgp.NoAdvertise)
		}
	}
	return list
}

func sameAnnouncement(a, b bgp.Announcement) bool {
	return a.Prefix == b.Prefix && slices.Equal(a.Communities, b.Communities) && slices.Equal(a.LargeCommunities, b.LargeCommunities)
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
	if len(k.reasons) > maxReasons {
		clear(k.reasons) // those of long ago, and the newest with them, which is no great loss
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
