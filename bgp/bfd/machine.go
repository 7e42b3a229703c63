package bfd

import (
	"time"
)

const (
	// slowInterval is the least interval between packets while a session is not Up (RFC 5880, section 6.8.3).
	slowInterval = time.Second
	// burstGap spaces the copies of an AdminDown packet: losing the only one would look like a failure to the peer.
	burstGap    = 50 * time.Millisecond
	burstCopies = 3
)

// machine is a session's state machine and timers. It is pure: time and packets come in by its methods, and so it knows
// no socket. Names follow the variables of RFC 5880, section 6.8.1.
type machine struct {
	minTx, minRx time.Duration // configured
	floor        time.Duration // our packets are promised no more often than this, whatever is configured; 0: none
	multiplier   uint8

	state, remoteState State
	diag, remoteDiag   Diagnostic
	discr, remoteDiscr uint32

	desiredTx, requiredRx time.Duration // what our packets say
	activeTx, activeRx    time.Duration // what is in force: the former, or until a Poll Sequence ends what was before

	remoteMinRx, remoteMinTx time.Duration
	remoteMultiplier         uint8 // 0: nothing heard yet
	remoteDemand             bool

	polling bool // a Poll Sequence is under way
	repoll  bool // values changed during it: another one follows, whose Final cannot be the answer to the first

	urgent   bool // what a packet would say has changed: send one without waiting
	final    bool // a Poll wants an answer
	burst    int  // copies of an AdminDown still to be sent
	lastTx   time.Time
	nextTx   time.Time
	detectAt time.Time // zero: no packet is awaited

	random func() uint32 // for the jitter
}

func newMachine(now time.Time, s Session, discr uint32, random func() uint32) *machine {
	m := &machine{
		minTx: s.MinTx, minRx: s.MinRx, multiplier: s.Multiplier,
		state: Down, remoteState: Down, discr: discr, remoteMinRx: 1, random: random, nextTx: now,
	}
	m.adopt(now)
	return m
}

// configure changes the timers. A session that is Up stays so.
func (m *machine) configure(now time.Time, minTx, minRx time.Duration, multiplier uint8) {
	if m.multiplier != multiplier {
		m.urgent = true
	}
	m.minTx, m.minRx, m.multiplier = minTx, minRx, multiplier
	m.adopt(now)
}

// setFloor slows our packets down, or lets them be as fast as configured again, by a Poll Sequence.
func (m *machine) setFloor(now time.Time, floor time.Duration) {
	m.floor = floor
	m.adopt(now)
}

// settled reports that the peer has agreed to the timers we last told it of.
func (m *machine) settled() bool { return !m.polling }

// adopt recomputes what our packets say after the configuration or the state has changed (RFC 5880, section 6.8.3).
// In state Up a longer transmit interval and a shorter detection time wait for the end of a Poll Sequence, since the
// peer goes by the former ones until it has answered.
func (m *machine) adopt(now time.Time) {
	desired, required := max(m.minTx, m.floor), m.minRx
	if m.state != Up {
		desired = max(desired, slowInterval)
	}
	changed := desired != m.desiredTx || required != m.requiredRx
	m.desiredTx, m.requiredRx = desired, required
	if m.state != Up {
		m.activeTx, m.activeRx = desired, required
		m.polling, m.repoll = false, false
		m.reschedule(now)
		return
	}
	if !changed {
		return
	}
	m.activeTx, m.activeRx = min(m.activeTx, desired), max(m.activeRx, required)
	m.repoll = m.polling
	m.polling, m.urgent = true, true
	m.reschedule(now)
}

// receive takes a packet that is for this session and has passed decode.
func (m *machine) receive(now time.Time, p *packet) {
	m.remoteDiscr, m.remoteState, m.remoteDiag, m.remoteDemand = p.My, p.State, p.Diagnostic, p.Demand
	m.remoteMinTx, m.remoteMultiplier = p.MinTx, p.Multiplier
	remoteMinRx := p.MinRx
	if m.remoteMinRx != remoteMinRx {
		m.remoteMinRx = remoteMinRx
		m.reschedule(now)
	}
	if p.Final && m.polling {
		m.polled(now)
	}
	if m.state == AdminDown {
		m.detectAt = time.Time{}
		return
	}
	switch {
	case p.State == AdminDown:
		if m.state != Down {
			m.change(now, Down, NeighborSignaledDown)
		}
	case m.state == Down && p.State == Down:
		m.change(now, Init, m.diag)
	case m.state == Down && p.State == Init, m.state == Init && (p.State == Init || p.State == Up):
		m.change(now, Up, NoDiagnostic)
	case m.state == Up && p.State == Down:
		m.change(now, Down, NeighborSignaledDown)
	}
	m.detectAt = now.Add(m.detectionTime())
	if p.Poll {
		m.final = true
	}
}

// polled ends a Poll Sequence.
func (m *machine) polled(now time.Time) {
	if m.repoll {
		m.repoll, m.urgent = false, true
		return
	}
	m.polling = false
	if m.activeTx != m.desiredTx {
		m.activeTx = m.desiredTx
		m.reschedule(now)
	}
	m.activeRx = m.requiredRx
}

func (m *machine) change(now time.Time, to State, why Diagnostic) {
	m.state, m.diag, m.urgent = to, why, true
	m.adopt(now)
}

// expire declares the session down if its detection time has passed. What was heard of the peer is forgotten: it may
// come back as another, and one that wanted no packets must hear of us again.
func (m *machine) expire(now time.Time) {
	if m.detectAt.IsZero() || now.Before(m.detectAt) {
		return
	}
	m.detectAt = time.Time{}
	m.remoteDiscr, m.remoteMinRx, m.remoteDemand, m.remoteState = 0, 1, false, Down
	if m.state == Init || m.state == Up {
		m.change(now, Down, DetectionTimeExpired)
	}
}

// grace puts the detection off until the given time: the caller could not have heard the peer.
func (m *machine) grace(until time.Time) {
	if !m.detectAt.IsZero() && m.detectAt.Before(until) {
		m.detectAt = until
	}
}

// admin closes the session, or opens it again (RFC 5880, section 6.8.16).
func (m *machine) admin(now time.Time, down bool) {
	switch {
	case down && m.state != AdminDown:
		m.burst, m.detectAt, m.final = burstCopies, time.Time{}, false
		m.change(now, AdminDown, AdministrativelyDown)
	case !down && m.state == AdminDown:
		m.burst = 0
		m.change(now, Down, NoDiagnostic)
	}
}

// quiet reports that all copies of the AdminDown packet are out.
func (m *machine) quiet() bool { return m.burst == 0 && !m.urgent }

// periodic reports whether the peer wants to hear from us without being asked (RFC 5880, section 6.8.7).
func (m *machine) periodic() bool {
	if m.burst > 0 {
		return true
	}
	return m.remoteMinRx != 0 && (!m.remoteDemand || m.state != Up || m.remoteState != Up || m.polling)
}

// outgoing fills in the packet that is due, if one is.
func (m *machine) outgoing(now time.Time, p *packet) bool {
	switch {
	case m.final: // it takes no periodic packet's place, and a Poll of ours cannot go with it
		m.final = false
		m.fill(p)
		p.Poll, p.Final = false, true
		return true
	case m.urgent, m.periodic() && !now.Before(m.nextTx):
		m.urgent = false
		m.fill(p)
		if m.burst > 0 {
			m.burst--
		}
		m.lastTx = now
		m.schedule(now)
		return true
	}
	return false
}

func (m *machine) fill(p *packet) {
	*p = packet{
		Diagnostic: m.diag, State: m.state, Poll: m.polling, ControlIndependent: true, Multiplier: m.multiplier,
		My: m.discr, Your: m.remoteDiscr, MinTx: m.desiredTx, MinRx: m.requiredRx,
	}
}

// wake is when outgoing or expire must be called, zero if only a packet can bring news.
func (m *machine) wake() time.Time {
	var at time.Time
	if m.urgent || m.final {
		return time.Unix(0, 0) // long due
	}
	if m.periodic() {
		at = m.nextTx
	}
	if !m.detectAt.IsZero() && (at.IsZero() || m.detectAt.Before(at)) {
		at = m.detectAt
	}
	return at
}

// txInterval is the interval between our packets before jitter; 0: the peer wants none.
func (m *machine) txInterval() time.Duration {
	if m.remoteMinRx == 0 {
		return 0
	}
	return max(m.activeTx, m.remoteMinRx)
}

// rxInterval is the interval between the peer's packets, as far as is known.
func (m *machine) rxInterval() time.Duration { return max(m.activeRx, m.remoteMinTx) }

// detectionTime is how long silence may last (RFC 5880, section 6.8.4); 0 before the first packet.
func (m *machine) detectionTime() time.Duration {
	return time.Duration(m.remoteMultiplier) * m.rxInterval()
}

// schedule sets when the next packet is due, counted from the given time.
func (m *machine) schedule(from time.Time) {
	if m.burst > 0 {
		m.nextTx = from.Add(burstGap)
		return
	}
	m.nextTx = from.Add(m.jitter(m.txInterval()))
}

// reschedule follows an interval that has changed.
func (m *machine) reschedule(now time.Time) {
	if m.lastTx.IsZero() {
		return
	}
	m.schedule(m.lastTx)
	if m.nextTx.Before(now) {
		m.nextTx = now
	}
}

// jitter takes off up to a quarter, and a tenth at least if a single lost packet counts: the interval may then not be
// used up (RFC 5880, section 6.8.7).
func (m *machine) jitter(d time.Duration) time.Duration {
	least, span := 0.0, 0.25
	if m.multiplier == 1 {
		least, span = 0.10, 0.15
	}
	return d - time.Duration(float64(d)*(least+span*float64(m.random())/(1<<32)))
}
