package blocks

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Health is how steadily a host must be well, or not, before its announcements follow: a setting that flaps must not flap
// routes in the fabric.
type Health struct {
	FailAfter    time.Duration // what fails is withdrawn after so long without a good look; 0: at once
	RecoverAfter time.Duration // what was withdrawn is announced again after so long without a bad look; 0: at once
}

// MaxRecover bounds the wait of what fails again and again: each failure that follows on an earlier one within this time
// doubles it.
const MaxRecover = 5 * time.Minute

// steadiness judges one thing that is looked at again and again.
type steadiness struct {
	Health
	known  bool          // it has been well
	shut   error         // why it counts as failing; nil while it does not
	since  time.Time     // the looks have said the opposite of shut; zero: the last one did not
	opened time.Time     // when it was well again after a failure; zero: it has never failed
	wait   time.Duration // before it counts as well again
}

// set goes on with other waits; one that is under way is as long as the new one.
func (s *steadiness) set(h Health) {
	if h.RecoverAfter != s.RecoverAfter {
		s.wait = h.RecoverAfter
	}
	s.Health = h
}

// look takes what a look has found, and returns why the thing counts as failing. soon says what comes if the looks go on like
// this, when that is something else.
func (s *steadiness) look(now time.Time, found error) (soon string, shut error) {
	switch {
	case !s.known: // nothing is announced yet that could flap
		s.known, s.shut = found == nil, found
	case s.shut == nil && found == nil, s.shut != nil && found != nil:
		s.since = time.Time{}
		if found != nil {
			s.shut = found
		}
	case s.shut == nil:
		soon = s.failing(now, found)
	default:
		soon = s.recovering(now)
	}
	return soon, s.shut
}

func (s *steadiness) failing(now time.Time, found error) (soon string) {
	if s.since.IsZero() {
		s.since = now
	}
	if now.Sub(s.since) < s.FailAfter {
		return fmt.Sprintf("%v: what depends on it is withdrawn if that lasts %s", found, s.FailAfter)
	}
	if s.wait = 2 * s.wait; s.opened.IsZero() || now.Sub(s.opened) > MaxRecover {
		s.wait = s.RecoverAfter
	}
	s.wait = max(min(s.wait, MaxRecover), s.RecoverAfter)
	s.shut, s.since = found, time.Time{}
	return ""
}

func (s *steadiness) recovering(now time.Time) (soon string) {
	if s.since.IsZero() {
		s.since = now
	}
	if left := s.wait - now.Sub(s.since); left > 0 {
		return fmt.Sprintf("that is over since %s, and must stay so for %s", s.since.Format(time.TimeOnly), s.wait)
	}
	s.shut, s.since, s.opened = nil, time.Time{}, now
	return ""
}

// recovered is a failure that is over, but not for long enough.
type recovered struct {
	error
	soon string
}

func (r recovered) Error() string { return r.error.Error() + " (" + r.soon + ")" }
func (r recovered) Unwrap() error { return r.error }

// lookAtGate asks whether blocks may be announced, and judges the answer.
func (k *Keeper) lookAtGate() (problems []string, shut error) {
	soon, shut := k.gateway.look(time.Now(), k.opts.Gate())
	switch {
	case soon == "":
	case shut != nil:
		shut = recovered{shut, soon}
	default:
		problems = []string{soon}
	}
	return problems, shut
}

// unsteady are those of the discard routes that count as missing, and why, by those that the kernel does not have now. One
// that was never there is not waited for; one that was, and is announced for that, is withdrawn only if it stays away.
func (k *Keeper) unsteady(missing map[netip.Prefix]error) map[netip.Prefix]error {
	for p := range k.discarded {
		if !slices.Contains(k.discards, p) {
			delete(k.discarded, p)
		}
	}
	out := make(map[netip.Prefix]error)
	for _, p := range k.discards {
		s := k.discarded[p]
		if s == nil {
			s = &steadiness{Health: k.opts.Health}
			k.discarded[p] = s
		}
		switch soon, shut := s.look(time.Now(), missing[p]); {
		case shut != nil && soon != "":
			out[p] = recovered{shut, soon}
		case shut != nil:
			out[p] = shut
		}
	}
	return out
}
