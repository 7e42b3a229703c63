package endpoint

import (
	"context"
	"errors"
	"fmt"
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
)

// Retire takes the host link down at once and puts it in the graveyard, from where Run deletes it with others; gone is
// closed when the kernel has it no more. A link that is not there, because the runtime deleted the namespace first, is
// success, and gone is closed on return. Without Run, gone stays open.
func (w *Wirer) Retire(ctx context.Context, hostLink string) (gone <-chan struct{}, err error) {
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
	done := make(chan struct{})
	if errors.Is(err, unix.ENODEV) {
		close(done)
		return done, nil
	}
	if err != nil {
		return nil, fmt.Errorf("retire %s: %w", hostLink, err)
	}
	w.mu.Lock()
	w.dead = append(w.dead, done)
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
	for {
		select {
		case <-ctx.Done():
			return w.reap()
		case <-w.deadSet:
			if !waiting {
				timer.Reset(reapInterval)
				waiting = true
			}
		case <-timer.C:
			waiting = false
			if err := w.reap(); err != nil {
				w.log.Error("cannot delete retired links", "error", err)
				timer.Reset(reapRetry)
				waiting = true
			}
		}
	}
}

// reap deletes what is in the graveyard in one request, and tells those whose links were in it.
func (w *Wirer) reap() error {
	w.mu.Lock()
	dead := w.dead
	w.dead = nil
	w.mu.Unlock()
	var b rtnl.Batch
	b.Begin(unix.RTM_DELLINK, 0)
	b.Link(0, 0, 0)
	b.Uint32(unix.IFLA_GROUP, Graveyard)
	err := w.host.One(&b, nil)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		w.mu.Lock()
		w.dead = slices.Concat(dead, w.dead)
		w.mu.Unlock()
		return fmt.Errorf("delete link group %d: %w", Graveyard, err)
	}
	for _, done := range dead {
		close(done)
	}
	return nil
}

// Live is the host end of an endpoint.
type Live struct {
	HostLink string
	Alias    string // empty if a crash came before it was set
	MTU      int    // bytes
}

// List returns our host ends in this namespace, without those in the graveyard.
func (w *Wirer) List(ctx context.Context) ([]Live, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := listLinks(w.host)
	if err != nil {
		return nil, err
	}
	var live []Live
	for _, l := range all {
		if l.ours() && l.group != Graveyard {
			live = append(live, Live{HostLink: l.name, Alias: l.alias, MTU: l.mtu})
		}
	}
	return live, nil
}
