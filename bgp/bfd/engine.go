package bfd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// housekeeping is how often missing interfaces, addresses and sockets are looked for again.
	housekeeping = time.Second
	// lateness is how late the thread may run before its own absence counts as the reason for not having heard a peer.
	lateness = 5 * time.Millisecond
	// batch is how many packets are taken from a socket before those of ours that are due are sent.
	batch = 256
)

// errEnded is the answer of an engine that no longer runs.
var errEnded = errors.New("BFD has ended")

// engine owns the sessions. One thread does everything: it sleeps until a packet comes, one is due or a call is made.
type engine struct {
	hub   *hub
	calls chan func()
	ended chan struct{}
	bell  int // eventfd that tells the thread of a call
	probe int // socket for asking about interfaces

	// The rest belongs to the thread.
	receivers [2]*receiver // IPv4, IPv6; nil: not open
	errs      [2]string    // why it is not
	sessions  []*session
	byDiscr   map[uint32]*session
	byOrigin  map[origin]*session
	adminDown bool
	floor     time.Duration
	strangers uint64 // packets that belong to no session, or not from one hop away
	cleanAt   time.Time

	fds     [3]unix.PollFd
	timeout unix.Timespec
	now     time.Time
	pkt     packet
	arr     arrival
	wire    [packetLen]byte
}

func newEngine(h *hub) (*engine, error) {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		unix.Close(bell)
		return nil, fmt.Errorf("socket: %w", err)
	}
	return &engine{
		hub: h, calls: make(chan func(), 16), ended: make(chan struct{}), bell: bell, probe: probe,
		byDiscr: map[uint32]*session{}, byOrigin: map[origin]*session{},
	}, nil
}

// do runs fn on the engine's thread.
func (e *engine) do(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	select {
	case e.calls <- func() { fn(); close(done) }:
	case <-e.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	e.ring()
	select {
	case <-done:
		return nil
	case <-e.ended:
		return errEnded
	}
}

func (e *engine) ring() {
	one := [8]byte{}
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(e.bell, one[:]) // it fails only when the bell rings already
}

// run works until ctx ends.
func (e *engine) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer e.close()
	stop := context.AfterFunc(ctx, e.ring)
	defer stop()
	for ctx.Err() == nil {
		if err := e.sleep(e.wake()); err != nil {
			return err
		}
		e.turn()
	}
	return nil
}

func (e *engine) close() {
	close(e.ended)
	for _, s := range e.sessions {
		s.close()
	}
	for _, r := range e.receivers {
		if r != nil {
			unix.Close(r.fd)
		}
	}
	unix.Close(e.probe)
	unix.Close(e.bell)
}

// wake is when something is due.
func (e *engine) wake() time.Time {
	at := e.cleanAt
	for _, s := range e.sessions {
		if t := s.wake(); !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

// sleep waits until then or for a descriptor, and sets e.now. A session that has become due so long ago that this
// thread cannot have run is given time to be heard.
func (e *engine) sleep(until time.Time) error {
	e.fds[0] = unix.PollFd{Fd: int32(e.bell), Events: unix.POLLIN}
	n := 1
	for _, r := range e.receivers {
		if r != nil {
			e.fds[n] = unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN}
			n++
		}
	}
	began := time.Now()
	e.timeout = unix.NsecToTimespec(int64(max(until.Sub(began), 0)))
	_, err := unix.Ppoll(e.fds[:n], &e.timeout, nil)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	e.now = time.Now()
	if due := later(until, began); e.now.Sub(due) > lateness {
		e.excuse()
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// excuse puts off, once for each silence, the detections that would be made now.
func (e *engine) excuse() {
	for _, s := range e.sessions {
		if !s.graced && !s.detectAt.IsZero() && !e.now.Before(s.detectAt) {
			s.grace(e.now.Add(s.rxInterval()))
			s.graced = true
		}
	}
}

// turn does what is due. A peer is declared dead only after the sockets were found empty: what it has sent by e.now was
// heard then, even if this thread slept through its arrival.
func (e *engine) turn() {
	drained := e.drain()
	if e.fds[0].Revents != 0 {
		e.answer()
	}
	clean := !e.now.Before(e.cleanAt)
	if clean {
		e.cleanAt = e.now.Add(housekeeping)
		e.housekeep()
	}
	gone := false
	for _, s := range e.sessions {
		if drained || !s.detectAt.IsZero() && e.now.Sub(s.detectAt) > s.detectionTime() {
			was, silence := s.state, s.detectionTime()
			s.expire(e.now)
			e.note(s, was, silence)
		}
		e.transmit(s)
		gone = gone || s.removing && s.quiet()
	}
	if gone {
		e.sweep()
	}
}

func (e *engine) transmit(s *session) {
	for s.outgoing(e.now, &e.pkt) {
		e.pkt.encode(e.wire[:])
		if s.send(e.wire[:]) {
			e.hub.publish(s.status())
		}
	}
}

// note records and tells a change of state.
func (e *engine) note(s *session, was State, silence time.Duration) {
	if s.state == was {
		return
	}
	s.moved(was, e.now, silence)
	if !s.removing {
		e.hub.publish(s.status())
	}
}

// drain takes what has come in, and reports whether that was all.
func (e *engine) drain() bool {
	all := true
	for _, r := range e.receivers {
		if r == nil {
			continue
		}
		n := 0
		for n < batch && r.next(&e.arr) {
			e.receive(&e.arr)
			n++
		}
		all = all && n < batch
	}
	return all
}

// receive finds the session of a datagram (RFC 5880, section 6.8.6; RFC 5881, sections 3 and 5). Whoever knows a
// discriminator must also send from the right address, on the right interface, and be one hop away.
func (e *engine) receive(a *arrival) {
	o := origin{peer: a.from.As16(), ifindex: a.ifindex}
	err := e.pkt.decode(a.data)
	var s *session
	if err == nil && e.pkt.Your != 0 {
		if s = e.byDiscr[e.pkt.Your]; s != nil && !s.removing && s.origin() != o && (s.want.Interface != "" || s.origin().peer != o.peer) {
			s.bad++
			return
		}
	} else if s = e.byOrigin[o]; s == nil {
		o.ifindex = 0
		s = e.byOrigin[o]
	}
	if s == nil {
		e.strangers++
		return
	}
	if err != nil || a.ttl != fullTTL {
		s.bad++
		return
	}
	s.in++
	s.graced = false
	was := s.state
	s.receive(e.now, &e.pkt)
	e.note(s, was, 0)
}

// answer runs the calls that wait.
func (e *engine) answer() {
	var b [8]byte
	_, _ = unix.Read(e.bell, b[:]) // only to reset it
	for {
		select {
		case fn := <-e.calls:
			fn()
		default:
			return
		}
	}
}

func (e *engine) newDiscriminator() uint32 {
	for {
		if d := rand.Uint32(); d != 0 && e.byDiscr[d] == nil {
			return d
		}
	}
}
