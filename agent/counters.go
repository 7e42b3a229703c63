package agent

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Counters count verbs since the agent started.
type Counters struct {
	Attach, Detach []Verbs       // by front-end and result, all there can be
	Reconcile      time.Duration // that the last comparison of leases with links took; 0 before the first
}

// Attached counts the attaches that succeeded and that failed.
func (c Counters) Attached() (ok, failed uint64) { return sum(c.Attach) }

// Detached counts the detaches that succeeded and that failed.
func (c Counters) Detached() (ok, failed uint64) { return sum(c.Detach) }

func sum(all []Verbs) (ok, bad uint64) {
	for _, v := range all {
		if v.Result == resultNames[failed] {
			bad += v.Latency.Count()
		} else {
			ok += v.Latency.Count()
		}
	}
	return ok, bad
}

// Verbs are those of one kind that came by one front-end and ended alike.
type Verbs struct {
	FrontEnd string // api, cni, docker or sandbox; empty: a detach of what was not attached, or a request that did not say
	Result   string // ok, repeated (there was nothing to do) or error
	Latency  Latency
}

// Latency is how long something took, as often as it was done.
type Latency struct {
	Counts [len(LatencyBounds) + 1]uint64 // one a bound, then those above the last; each counts its own bucket only
	Sum    time.Duration
}

// Count is how often it was done.
func (l Latency) Count() (n uint64) {
	for _, c := range l.Counts {
		n += c
	}
	return n
}

// LatencyBounds are the upper bounds of a Latency's buckets.
var LatencyBounds = [...]time.Duration{
	200 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
}

type counters struct {
	attach, detach tally
	reconcile      atomic.Int64 // nanoseconds
}

// Counters reads them.
func (a *Agent) Counters() Counters {
	c := &a.counters
	return Counters{Attach: c.attach.read(), Detach: c.detach.read(), Reconcile: time.Duration(c.reconcile.Load())}
}

// result is what became of a verb.
type result uint8

const (
	ok       result = iota
	repeated        // there was nothing to do
	failed
)

var resultNames = [...]string{"ok", "repeated", "error"}

// frontEnds are what owners begin with; see OwnerAPI and those beside it.
var frontEnds = [...]string{"", OwnerAPI, "cni", "docker", OwnerSandbox}

// tally counts one kind of verb. The zero value is ready.
type tally [len(frontEnds)][len(resultNames)]latency

func (t *tally) count(owner string, r result, took time.Duration) {
	t[frontEnd(owner)][r].add(took)
}

// frontEnd is the place of an owner's front-end in frontEnds: the first is for those that there are not.
func frontEnd(owner string) int {
	of, _, _ := strings.Cut(owner, "/")
	return max(0, slices.Index(frontEnds[:], of))
}

func (t *tally) read() []Verbs {
	var all []Verbs
	for i := range t {
		for j := range t[i] {
			all = append(all, Verbs{FrontEnd: frontEnds[i], Result: resultNames[j], Latency: t[i][j].read()})
		}
	}
	return all
}

// latency counts how long something took.
type latency struct {
	sum   atomic.Int64
	slots [len(LatencyBounds) + 1]atomic.Uint64 // as Latency.Counts
}

func (l *latency) add(took time.Duration) {
	l.sum.Add(int64(took))
	at := len(LatencyBounds)
	for i, bound := range LatencyBounds {
		if took <= bound {
			at = i
			break
		}
	}
	l.slots[at].Add(1)
}

func (l *latency) read() Latency {
	out := Latency{Sum: time.Duration(l.sum.Load())}
	for i := range l.slots {
		out.Counts[i] = l.slots[i].Load()
	}
	return out
}
