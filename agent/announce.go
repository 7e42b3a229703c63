package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// gateInterval is how often the health gate is looked at without a hint.
const gateInterval = time.Second

// announceLoop keeps the announcements equal to the cover of the blocks while the health gate is open, and empty
// while it is shut.
func (a *Agent) announceLoop(ctx context.Context) error {
	tick := time.NewTicker(gateInterval)
	defer tick.Stop()
	var announced []bgp.Announcement
	first := true
	for {
		var want []bgp.Announcement
		closed := a.gateClosed()
		if closed == nil {
			want = a.announcements()
		}
		a.setGate(closed)
		if first || !slices.EqualFunc(want, announced, sameAnnouncement) {
			if err := a.speaker.Announce(ctx, want); err != nil && ctx.Err() == nil {
				a.log.Error("announcements not accepted by the speaker client, will be retried", "err", err)
			} else {
				first, announced = false, want
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-a.wake:
		}
	}
}

// gateClosed says why the blocks must not be announced: traffic that they attract would be lost.
func (a *Agent) gateClosed() error {
	select {
	case <-a.restored:
	default:
		return errors.New("leases are being restored")
	}
	if err := a.opts.Forwarding(); err != nil {
		return err
	}
	for _, s := range a.table.Status(routes.Blocks) {
		if s.State != routes.Installed {
			return fmt.Errorf("discard route %s is not in the kernel: %w", s.Route.Prefix, errors.Join(s.Err, errors.New(s.State.String())))
		}
	}
	return nil
}

func (a *Agent) setGate(closed error) {
	a.mu.Lock()
	was := a.gate
	a.gate = closed
	a.mu.Unlock()
	switch {
	case closed != nil && (was == nil || was.Error() != closed.Error()):
		a.log.Warn("blocks are not announced", "reason", closed)
	case closed == nil && was != nil:
		a.log.Info("blocks are announced", "prefixes", ipam.Cover(a.opts.Blocks))
	}
}

func (a *Agent) announcements() []bgp.Announcement {
	var set []bgp.Announcement
	for _, p := range ipam.Cover(a.opts.Blocks) {
		set = append(set, bgp.Announcement{Prefix: p})
	}
	return set
}

func sameAnnouncement(x, y bgp.Announcement) bool { return x.Prefix == y.Prefix }
