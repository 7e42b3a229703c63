package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

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
	a.drain.unsure = true
	if err := a.opts.Sessions(limited, s); err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	a.drain.sessions, a.drain.unsure = s, false
	if s.Shutdown != "" {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.opts.Live().Settle):
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
	if a.drain.sessions.Shutdown != "" || a.drain.unsure {
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
