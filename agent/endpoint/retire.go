package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

const (
	// reapInterval is how long the graveyard fills before it is emptied. Deleting costs an RCU grace period of some
	// 20 ms however many links it takes with it.
	reapInterval = 30 * time.Millisecond
	// reapRetry follows a failure.
	reapRetry = time.Second
	// forgetRest is how often as long as it took to forget connections the graveyard then fills at least: where there
	// are a hundred thousand of them, containers that come and go all the time must not take a core for it.
	forgetRest = 4
)

// retired is what Retire leaves to Run.
type retired struct {
	gone  chan struct{}
	addrs []netip.Addr // whose tracked connections are to be forgotten
}

// Retire takes the host link down at once and puts it in the graveyard, from where Run deletes it with others; gone is
// closed when the kernel has neither the link nor a record (conntrack) of a connection of addrs any more: they may be
// given again. A link that is not there, because the runtime deleted the namespace first, is success, and gone is
// closed on return if no connections are on record. Without Run, gone stays open otherwise.
//
// The caller has removed the host routes of addrs before, so that no new connection comes about.
func (w *Wirer) Retire(ctx context.Context, hostLink string, addrs []netip.Addr) (gone <-chan struct{}, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := validateName("host link", hostLink); err != nil {
		return nil, fmt.Errorf("retire: %w: %w", ErrInvalid, err)
	}
	var b rtnl.Batch
	b.Begin(unix.RTM_SETLINK, 0)
	b.Link(0, 0, unix.IFF_UP)
	b.String(unix.IFLA_IFNAME, hostLink)
	b.Uint32(unix.IFLA_GROUP, Graveyard)
	err = w.host.One(&b, nil)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("retire %s: %w", hostLink, err)
	}
	done := make(chan struct{})
	if err != nil && (len(addrs) == 0 || !w.tracks()) {
		close(done)
		return done, nil
	}
	w.mu.Lock()
	w.dead = append(w.dead, retired{done, slices.Clone(addrs)})
	w.mu.Unlock()
	select {
	case w.deadSet <- struct{}{}:
	default:
	}
	return done, nil
}

// Run empties the graveyard until ctx ends, the first time at once: a crash may have left something there. What is in
// it at the end is deleted too.
func (w *Wirer) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	waiting := true // for the timer: a link that joins does not put the others off
	var rested time.Time
	for {
		select {
		case <-ctx.Done():
			_, err := w.reap()
			return err
		case <-w.deadSet:
			if !waiting {
				timer.Reset(max(reapInterval, time.Until(rested)))
				waiting = true
			}
		case <-timer.C:
			waiting = false
			forgetting, err := w.reap()
			rested = time.Now().Add(forgetRest * forgetting)
			if err != nil {
				w.log.Error("cannot delete retired links", "error", err)
				timer.Reset(reapRetry)
				waiting = true
			}
		}
	}
}

// reap deletes what is in the graveyard in one request, forgets the connections of the addresses, and tells those who
// wait for it. It returns how long the forgetting took.
func (w *Wirer) reap() (forgetting time.Duration, err error) {
	w.mu.Lock()
	dead := w.dead
	w.dead = nil
	w.mu.Unlock()
	var b rtnl.Batch
	b.Begin(unix.RTM_DELLINK, 0)
	b.Link(0, 0, 0)
	b.Uint32(unix.IFLA_GROUP, Graveyard)
	err = w.graves.One(&b, nil)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		w.mu.Lock()
		w.dead = slices.Concat(dead, w.dead)
		w.mu.Unlock()
		return 0, fmt.Errorf("delete link group %d: %w", Graveyard, err)
	}
	var addrs []netip.Addr
	for _, r := range dead {
		addrs = append(addrs, r.addrs...)
	}
	begin := time.Now()
	w.forget(addrs)
	for _, r := range dead {
		close(r.gone)
	}
	return time.Since(begin), nil
}
