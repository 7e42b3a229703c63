package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

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

	sessions Sessions // as they were set last; owned by drainLoop

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

// leave begins a drain, or changes the reason and the deadline of the one there is.
func (d *drainer) leave(req DrainRequest) error {
	boot := ""
	if req.UntilBoot {
		var err error
		if boot, err = bootID(); err != nil {
			return err
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
	return d.turn(r, func(s *DrainStatus) {
		s.Stage, s.Step, s.Reason, s.Since, s.Deadline, s.UntilBoot, s.Err = r.Stage, "starting", r.Reason, r.Since, r.Deadline, req.UntilBoot, nil
		if !again {
			s.Traffic = Traffic{}
		}
	})
}

// comeBack begins the end of a drain.
func (d *drainer) comeBack() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status.Stage == Serving || d.status.Stage == Undraining {
		return nil
	}
	return d.turn(DrainRecord{}, func(s *DrainStatus) { s.Stage, s.Deadline, s.Err = Undraining, time.Time{}, nil })
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

// drainRetry is how soon a step that failed is tried again.
const drainRetry = time.Second

// drainLoop does what is asked of it until ctx ends. A drain that is not over then goes on in the next run.
func (a *Agent) drainLoop(ctx context.Context) error {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.drain.wake:
		case <-retry.C:
		}
		if err := waitClosed(ctx, a.restored); err != nil {
			return nil
		}
		try, cancel, s := a.drain.begin(ctx)
		var err error
		switch s.Stage {
		case Serving:
		case Undraining:
			err = a.comeBack(try)
		default:
			err = a.leave(try, s)
		}
		if err != nil && try.Err() == nil {
			a.log.Error("drain: step failed, will be retried", "stage", s.Stage, "err", err)
			a.drain.update(func(s *DrainStatus) { s.Err = err })
			retry.Reset(drainRetry)
		}
		cancel()
	}
}

// stepWait bounds what one step waits for the speaker process.
const stepWait = 15 * time.Second

// leave takes the host out of the fabric, from wherever it is on the way. Every step may be repeated.
func (a *Agent) leave(ctx context.Context, s DrainStatus) error {
	if s.Stage == Draining {
		a.drain.update(func(s *DrainStatus) { s.Step = "announcing the blocks with GRACEFUL_SHUTDOWN" })
		for a.drain.sessions.Leave < bgp.LeaveAll {
			if err := a.setSessions(ctx, Sessions{Leave: a.drain.sessions.Leave + 1}); err != nil {
				return err
			}
		}
		a.drain.update(func(s *DrainStatus) { s.Step = "waiting for traffic to leave" })
		if err := a.awaitQuiet(ctx, s.Deadline); err != nil {
			return err
		}
	}
	if err := a.hold(ctx, "withdrawing the blocks", true); err != nil {
		return err
	}
	a.drain.update(func(s *DrainStatus) { s.Step = "ending the sessions" })
	if err := a.tellDrain(ctx, true, s.Reason); err != nil {
		return err
	}
	if err := a.setSessions(ctx, Sessions{Leave: bgp.LeaveAll, Shutdown: s.Reason}); err != nil {
		return err
	}
	if s.Stage == Draining {
		a.log.Warn("host is drained", "reason", s.Reason)
	}
	return a.drain.reached(ctx, func(r *DrainRecord, s *DrainStatus) { r.Stage, s.Stage = Drained, Drained })
}

// hold withdraws the blocks, or announces them again.
func (a *Agent) hold(ctx context.Context, step string, withdrawn bool) error {
	a.drain.update(func(s *DrainStatus) { s.Step = step })
	limited, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	if err := a.blocks.HoldNow(limited, withdrawn); err != nil {
		return fmt.Errorf("%s: the speaker does not follow: %w", step, errors.Join(err, a.speaker.Status().Err))
	}
	return nil
}

// setSessions changes the sessions and gives the ToRs time to follow.
func (a *Agent) setSessions(ctx context.Context, s Sessions) error {
	limited, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	if err := a.opts.Sessions(limited, s); err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	a.drain.sessions = s
	if s.Shutdown != "" {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.opts.Settle):
		return nil
	}
}

// tellDrain tells who watches the sessions, before they go and before they come.
func (a *Agent) tellDrain(ctx context.Context, drained bool, reason string) error {
	if a.opts.OnDrain == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	return a.opts.OnDrain(ctx, drained, reason)
}

// How long an undrain waits for routers, in two steps. It goes on without those that do not come.
const (
	sessionWait = 15 * time.Second
	routesWait  = 3 * time.Second
	sessionPoll = 50 * time.Millisecond
)

// comeBack takes the host back into the fabric: sessions, routes, and only then blocks, so that who answers has a way.
func (a *Agent) comeBack(ctx context.Context) error {
	a.drain.update(func(s *DrainStatus) { s.Step = "waiting for the sessions" })
	if err := a.tellDrain(ctx, false, ""); err != nil {
		return err
	}
	if a.drain.sessions.Shutdown != "" {
		if err := a.setSessions(ctx, Sessions{}); err != nil {
			return err
		}
	}
	began := time.Now()
	for !a.sessionsUp(ctx, time.Since(began) < routesWait) && time.Since(began) < sessionWait {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sessionPoll):
		}
	}
	if err := a.hold(ctx, "announcing the blocks", false); err != nil {
		return err
	}
	for a.drain.sessions.Leave > bgp.Stay {
		if err := a.setSessions(ctx, Sessions{Leave: a.drain.sessions.Leave - 1}); err != nil {
			return err
		}
	}
	a.log.Info("host is back from its drain")
	return a.drain.reached(ctx, func(r *DrainRecord, s *DrainStatus) { *r, *s = DrainRecord{}, DrainStatus{} })
}

// sessionsUp says that all peers are established and, if asked, that they have told their routes.
func (a *Agent) sessionsUp(ctx context.Context, routes bool) bool {
	peers, err := a.speaker.Peers(ctx)
	if err != nil {
		return false
	}
	for _, p := range peers {
		if p.State != bgp.StateEstablished || routes && !told(p) {
			return false
		}
	}
	return true
}

// told says that a peer has said all it knows of some family, or at least something.
func told(p bgp.PeerStatus) bool {
	for _, f := range p.Families {
		if f.EndOfRIB || f.Received > 0 {
			return true
		}
	}
	return false
}

// Drain takes the host out of the fabric: attaches are refused, the blocks announced with GRACEFUL_SHUTDOWN (RFC 8326),
// and withdrawn when their traffic has left or the deadline has passed; then the sessions end with the reason (RFC
// 9003). Detaches, and traffic among the host's containers, go on. It lasts over restarts until Undrain. Of a host
// that is draining or drained it changes the reason.
//
// Drain returns when the host is drained, and has watch see the steps, if it is not nil. It goes on when ctx ends.
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
	if err := a.drain.leave(req); err != nil {
		return DrainStatus{}, err
	}
	a.log.Warn("drain asked for", "reason", req.Reason, "deadline", req.Deadline, "until_boot", req.UntilBoot)
	return a.followDrain(ctx, watch, func(s DrainStatus) (bool, error) {
		switch s.Stage {
		case Serving, Undraining:
			return true, fmt.Errorf("%w: somebody has ended the drain meanwhile", ErrMismatch)
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
	if err := a.drain.comeBack(); err != nil {
		return DrainStatus{}, err
	}
	return a.followDrain(ctx, watch, func(s DrainStatus) (bool, error) {
		if s.Stage == Draining || s.Stage == Drained {
			return true, fmt.Errorf("%w: somebody has begun another drain meanwhile", ErrMismatch)
		}
		return s.Stage == Serving, nil
	})
}

func (a *Agent) followDrain(ctx context.Context, watch func(DrainStatus), over func(DrainStatus) (bool, error)) (DrainStatus, error) {
	for {
		s, changed := a.drain.get()
		if watch != nil {
			watch(s)
		}
		if done, err := over(s); done {
			return s, err
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
