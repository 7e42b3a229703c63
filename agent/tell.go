package agent

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/ipam"
)

// tell has the ledger know of what has just happened.
func (a *Agent) tell(e history.Event) {
	e.Time = time.Now()
	a.opts.Ledger.Record(e)
}

func eventOf(kind history.Kind, ep Endpoint) history.Event {
	return history.Event{
		Kind: kind, Container: ep.ContainerID, Interface: ep.Interface, Owner: ep.Owner, Addresses: ep.Addresses,
		Name: ep.Name, Aliases: ep.Aliases, Labels: ep.Labels,
	}
}

// leaseEvent tells of leases, which come and go together.
func leaseEvent(kind history.Kind, key Key, leases []ipam.Lease) history.Event {
	e := history.Event{Kind: kind, Container: key.ContainerID, Interface: key.Interface, Addresses: leaseAddrs(leases)}
	if len(leases) > 0 {
		e.Pool = leases[0].Pool
	}
	return e
}

// released tells that leases have ended. Whoever had none has nothing to tell.
func (a *Agent) released(key Key, leases []ipam.Lease, why string) {
	if len(leases) == 0 {
		return
	}
	e := leaseEvent(history.Release, key, leases)
	e.Detail = why
	a.tell(e)
}

// verb is one Attach or Detach on its way. When it is over it is counted; what it did is told while the lock of its key is held, so that
// the events of a container are in order, and what it could not do when all is undone.
type verb struct {
	*Agent
	tally  *tally
	owner  string
	event  history.Event // what is known of it, for the case that it fails
	began  time.Time
	result result
}

func (a *Agent) attaching(req AttachRequest) *verb {
	e := history.Event{Owner: req.Owner, Detail: "attach"}
	if req.Key.Validate() == nil {
		e.Container, e.Interface = req.ContainerID, req.Interface
	}
	if req.validate() == nil { // all of it has the size that it may have
		e.Addresses, e.Pool, e.Name, e.Aliases, e.Labels = req.Addresses, req.Pool, req.Name, req.Aliases, req.Labels
	}
	return &verb{Agent: a, tally: &a.counters.attach, owner: req.Owner, event: e, began: time.Now(), result: repeated}
}

func (a *Agent) detaching(key Key) *verb {
	e := history.Event{Detail: "detach"}
	if key.Validate() == nil {
		e.Container, e.Interface = key.ContainerID, key.Interface
	}
	return &verb{Agent: a, tally: &a.counters.detach, event: e, began: time.Now(), result: repeated}
}

// did tells what has been done.
func (v *verb) did(e history.Event, detail string) {
	v.owner, v.result = e.Owner, ok
	e.Duration, e.Detail = time.Since(v.began), detail
	v.tell(e)
}

// end counts it, and tells of a failure.
func (v *verb) end(err error) {
	took := time.Since(v.began)
	if err == nil {
		v.tally.count(v.owner, v.result, took)
		return
	}
	v.tally.count(v.owner, failed, took)
	v.event.Duration = took
	v.refuse(v.event, err)
}

// refuse tells that something was not done.
func (a *Agent) refuse(e history.Event, err error) {
	e.Kind, e.Error = history.Refuse, short(err)
	if a.refusals.admit(time.Now(), e.Error) {
		a.tell(e)
	}
}

// sumRefusals tells how many refusals were left out, if any.
func (a *Agent) sumRefusals() {
	if n, last := a.refusals.leftOut(); n > 0 {
		a.tell(history.Event{Kind: history.Refuse, Count: n, Error: last, Detail: "as many more failed, too fast to be told one by one; the error is the last one's"})
	}
}

// maxError bounds what an event has of an error, which may quote what a caller said.
const maxError = 1024

func short(err error) string {
	text := err.Error()
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "..."
	}
	return text
}

// How many refusals are told one by one: a caller in a loop must not fill the ledger. So many at once, and one a refusalInterval in the
// long run; the others are counted, see sumRefusals.
const (
	refusalBurst    = 100
	refusalInterval = time.Second
)

// refusals bounds how many of them are told. The zero value is ready.
type refusals struct {
	mu     sync.Mutex
	used   time.Duration // of the burst, in intervals
	last   time.Time
	out    uint64
	reason string // of the last one left out
}

func (r *refusals) admit(now time.Time, reason string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = max(0, r.used-now.Sub(r.last))
	r.last = now
	if r.used+refusalInterval > refusalBurst*refusalInterval {
		r.out++
		r.reason = reason
		return false
	}
	r.used += refusalInterval
	return true
}

func (r *refusals) leftOut() (n uint64, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, reason = r.out, r.reason
	r.out, r.reason = 0, ""
	return n, reason
}

// reserving tells of a reservation that failed: no attach will follow, and tell of it.
func (a *Agent) reserving(req ReserveRequest, began time.Time, err error) {
	if err == nil {
		return
	}
	e := history.Event{Duration: time.Since(began), Detail: "reserve an address"}
	if !errors.Is(err, ErrInvalid) {
		e.Pool = req.Pool
	}
	a.refuse(e, err)
}
