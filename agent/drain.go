package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/bgp"
)

// DrainStage is how far a host has left the fabric.
type DrainStage string

// The stages. A host that serves has none.
const (
	Serving    DrainStage = ""
	Draining   DrainStage = "draining"   // blocks are announced with GRACEFUL_SHUTDOWN (RFC 8326) while traffic leaves
	Drained    DrainStage = "drained"    // blocks are withdrawn, the sessions ended with Administrative Shutdown (RFC 9003)
	Undraining DrainStage = "undraining" // sessions come up, then blocks are announced
)

// DrainRequest asks for the host to leave the fabric.
type DrainRequest struct {
	Reason    string        // told to the peers; empty: DefaultDrainReason
	Deadline  time.Duration // for traffic to leave; 0: none is waited for
	UntilBoot bool          // the host serves again after its next boot
}

// DefaultDrainReason is what peers are told where an operator gives no reason.
const DefaultDrainReason = "host drained"

// DrainStatus tells how a drain or undrain goes.
type DrainStatus struct {
	Stage     DrainStage
	Step      string // what is being done; empty at rest
	Reason    string
	Since     time.Time // of the drain
	Deadline  time.Time // while Draining
	UntilBoot bool
	Traffic   Traffic // as last seen while Draining: what was left when it is over
	Err       error   // why the step failed; it is tried again
}

// Sessions is what a drain changes of the BGP sessions, see bgp.Config.
type Sessions struct {
	Leave    bgp.Leave
	Shutdown string
}

// drainer moves the host out of the fabric and back. One goroutine, drainLoop, does the steps; a request changes what it
// is to do.
type drainer struct {
	path string
	log  *slog.Logger
	wake chan struct{} // capacity 1: the direction has changed

	sessions Sessions // as they were set last; owned by drainLoop, as is unsure
	unsure   bool     // the last attempt to set them failed, and may have had its effect

	mu      sync.Mutex // guards what follows
	record  DrainRecord
	status  DrainStatus
	changed chan struct{} // closed when status changes
	cancel  context.CancelFunc
}

func newDrainer(path string, r DrainRecord, log *slog.Logger) *drainer {
	d := &drainer{path: path, log: log, wake: make(chan struct{}, 1), record: r, changed: make(chan struct{}), cancel: func() {}, sessions: r.Sessions()}
	d.status = DrainStatus{Stage: r.Stage, Reason: r.Reason, Since: r.Since, Deadline: r.Deadline, UntilBoot: r.UntilBoot != ""}
	if r.Stage != Serving {
		d.poke()
	}
	return d
}

func (d *drainer) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// get returns the status, and a channel that is closed when there is another.
func (d *drainer) get() (DrainStatus, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status, d.changed
}

// update changes the status.
func (d *drainer) update(f func(*DrainStatus)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.updateLocked(f)
}

func (d *drainer) updateLocked(f func(*DrainStatus)) {
	f(&d.status)
	close(d.changed)
	d.changed = make(chan struct{})
}

// turn records a new wish and has the loop follow it: what it is doing is broken off.
func (d *drainer) turn(r DrainRecord, f func(*DrainStatus)) error {
	if err := r.save(d.path); err != nil {
		return err
	}
	d.record = r
	d.updateLocked(f)
	d.cancel()
	d.poke()
	return nil
}

// leave begins a drain, or changes the reason and the deadline of the one there is. It is news if it does not have this reason already.
func (d *drainer) leave(req DrainRequest) (news bool, err error) {
	boot := ""
	if req.UntilBoot {
		if boot, err = bootID(); err != nil {
			return false, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now().Round(0) // without the monotonic clock, which no record has
	r := DrainRecord{Stage: Draining, Reason: req.Reason, Since: now, Deadline: now.Add(req.Deadline), UntilBoot: boot}
	again := d.status.Stage == Draining || d.status.Stage == Drained
	if again {
		r.Since, r.Stage = d.record.Since, d.record.Stage
	}
	news = !again || r.Reason != d.record.Reason
	return news, d.turn(r, func(s *DrainStatus) {
		s.Stage, s.Step, s.Reason, s.Since, s.Deadline, s.UntilBoot, s.Err = r.Stage, "starting", r.Reason, r.Since, r.Deadline, req.UntilBoot, nil
		if !again {
			s.Traffic = Traffic{}
		}
	})
}

// comeBack begins the end of a drain, if there is one.
func (d *drainer) comeBack() (news bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status.Stage == Serving || d.status.Stage == Undraining {
		return false, nil
	}
	return true, d.turn(DrainRecord{}, func(s *DrainStatus) { s.Stage, s.Step, s.Deadline, s.Err = Undraining, "starting", time.Time{}, nil })
}

// reached makes an end known, unless the direction has changed meanwhile.
func (d *drainer) reached(ctx context.Context, f func(*DrainRecord, *DrainStatus)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r, s := d.record, d.status
	f(&r, &s)
	if err := r.save(d.path); err != nil {
		return err
	}
	s.Step, s.Err = "", nil
	d.record = r
	d.updateLocked(func(now *DrainStatus) { *now = s })
	return nil
}

// begin starts a try in the direction that is wanted now; the context ends when that changes.
func (d *drainer) begin(ctx context.Context) (context.Context, context.CancelFunc, DrainStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, d.cancel = context.WithCancel(ctx)
	return ctx, d.cancel, d.status
}

// refused says why nothing is attached now; nil while the host serves.
func (d *drainer) refused() error {
	s, _ := d.get()
	if s.Stage == Serving {
		return nil
	}
	return fmt.Errorf("%w: it is %s since %s (%s); hostfabric undrain ends that", ErrDraining, s.Stage, s.Since.Format(time.RFC3339), s.Reason)
}

// Drain takes the host out of the fabric: attaches are refused, the blocks announced with GRACEFUL_SHUTDOWN (RFC 8326),
// and withdrawn when their traffic has left or the deadline has passed; then the sessions end with the reason (RFC
// 9003). Detaches, and traffic among the host's containers, go on. It lasts over restarts until Undrain. Of a host
// that is draining or drained it changes the reason.
//
// Drain returns when the host is drained, and has watch see the steps on the way, if it is not nil. It goes on when ctx ends.
func (a *Agent) Drain(ctx context.Context, req DrainRequest, watch func(DrainStatus)) (DrainStatus, error) {
	if req.Reason == "" {
		req.Reason = DefaultDrainReason
	}
	if err := bgp.ValidCommunication(req.Reason); err != nil {
		return DrainStatus{}, fmt.Errorf("%w: reason: %w", ErrInvalid, err)
	}
	if req.Deadline < 0 || req.Deadline > maxDrainDeadline {
		return DrainStatus{}, fmt.Errorf("%w: deadline %s: want 0s to %s", ErrInvalid, req.Deadline, maxDrainDeadline)
	}
	if err := a.awaitReady(ctx); err != nil {
		return DrainStatus{}, err
	}
	news, err := a.drain.leave(req)
	if err != nil {
		return DrainStatus{}, err
	}
	if news {
		a.tell(history.Event{Kind: history.HostDrain, Detail: req.Reason})
	}
	a.log.Warn("drain asked for", "reason", req.Reason, "deadline", req.Deadline, "until_boot", req.UntilBoot)
	return a.followDrain(ctx, watch, func(s DrainStatus) (bool, error) {
		switch s.Stage {
		case Serving, Undraining:
			return true, fmt.Errorf("drain: %w: somebody has ended it meanwhile", ErrOvertaken)
		}
		return s.Stage == Drained && s.Step == "", nil
	})
}

// maxDrainDeadline bounds the wait for traffic to leave.
const maxDrainDeadline = 24 * time.Hour

// Undrain takes a host that is draining or drained back into the fabric. It returns when it serves again, at most some
// 20 s after routers that do not come back.
func (a *Agent) Undrain(ctx context.Context, watch func(DrainStatus)) (DrainStatus, error) {
	if err := a.awaitReady(ctx); err != nil {
		return DrainStatus{}, err
	}
	news, err := a.drain.comeBack()
	if err != nil {
		return DrainStatus{}, err
	}
	if news {
		a.tell(history.Event{Kind: history.HostUndrain})
	}
	return a.followDrain(ctx, watch, func(s DrainStatus) (bool, error) {
		if s.Stage == Draining || s.Stage == Drained {
			return true, fmt.Errorf("undrain: %w: somebody has begun another drain meanwhile", ErrOvertaken)
		}
		return s.Stage == Serving, nil
	})
}

func (a *Agent) followDrain(ctx context.Context, watch func(DrainStatus), over func(DrainStatus) (bool, error)) (DrainStatus, error) {
	for {
		s, changed := a.drain.get()
		if done, err := over(s); done {
			return s, err
		}
		if watch != nil {
			watch(s)
		}
		select {
		case <-changed:
		case <-a.stopping:
			return s, fmt.Errorf("%w: the agent is stopping; it goes on where it was when it is started again", ErrNotReady)
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}

// DrainStatus tells whether the host serves, or how far it has left the fabric.
func (a *Agent) DrainStatus() DrainStatus {
	s, _ := a.drain.get()
	return s
}
