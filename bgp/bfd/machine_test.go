package bfd

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// pair is two machines and a perfect or lossy wire between them, on a clock of its own.
type pair struct {
	now   time.Time
	m     [2]*machine
	sent  [2]int
	last  [2]packet
	lose  func(from int) bool // nil: nothing
	seen  func(from int, p packet)
	start time.Time
}

func newPair(a, b Session) *pair {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(1, 2)).Uint32
	return &pair{now: now, start: now, m: [2]*machine{newMachine(now, a, 11, random), newMachine(now, b, 22, random)}}
}

func timers(interval time.Duration, multiplier uint8) Session {
	return Session{MinTx: interval, MinRx: interval, Multiplier: multiplier}
}

// run lets so much time pass, event by event.
func (p *pair) run(d time.Duration) {
	end := p.now.Add(d)
	for {
		p.exchange()
		next := end
		for _, m := range p.m {
			if at := m.wake(); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		if next.After(p.now) {
			p.now = next
		}
		if !p.now.Before(end) {
			return
		}
		for _, m := range p.m {
			m.expire(p.now)
		}
	}
}

// exchange carries what is due, and the answers to it, over the wire.
func (p *pair) exchange() {
	for again := true; again; {
		again = false
		for i, m := range p.m {
			var out packet
			for m.outgoing(p.now, &out) {
				again = true
				p.sent[i]++
				p.last[i] = out
				if p.seen != nil {
					p.seen(i, out)
				}
				var b [packetLen]byte
				out.encode(b[:])
				var in packet
				if err := in.decode(b[:]); err != nil {
					panic(err)
				}
				if p.lose == nil || !p.lose(i) {
					p.m[1-i].receive(p.now, &in)
				}
			}
		}
	}
}

func (p *pair) String() string {
	return fmt.Sprintf("%s/%s %s/%s", p.m[0].state, p.m[0].remoteState, p.m[1].state, p.m[1].remoteState)
}

func (p *pair) want(t *testing.T, want string) {
	t.Helper()
	if got := p.String(); got != want {
		t.Fatalf("after %s: %s, want %s", p.now.Sub(p.start), got, want)
	}
}

func TestHandshake(t *testing.T) {
	p := newPair(timers(100*time.Millisecond, 3), timers(50*time.Millisecond, 5))
	p.run(2 * time.Second)
	p.want(t, "Up/Up Up/Up")
	a, b := p.m[0], p.m[1]
	if a.txInterval() != 100*time.Millisecond || b.txInterval() != 100*time.Millisecond || a.detectionTime() != 500*time.Millisecond || b.detectionTime() != 300*time.Millisecond {
		t.Errorf("intervals %s, %s; detection %s, %s", a.txInterval(), b.txInterval(), a.detectionTime(), b.detectionTime())
	}
	if a.polling || b.polling || a.remoteDiscr != 22 || b.remoteDiscr != 11 || a.diag != NoDiagnostic {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// TestTransitions is the table of RFC 5880, section 6.8.6.
func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		have, hear, want State
		diag             Diagnostic
	}{
		{AdminDown, AdminDown, AdminDown, 0}, {AdminDown, Down, AdminDown, 0}, {AdminDown, Init, AdminDown, 0}, {AdminDown, Up, AdminDown, 0},
		{Down, AdminDown, Down, 0}, {Down, Down, Init, 0}, {Down, Init, Up, 0}, {Down, Up, Down, 0},
		{Init, AdminDown, Down, NeighborSignaledDown}, {Init, Down, Init, 0}, {Init, Init, Up, 0}, {Init, Up, Up, 0},
		{Up, AdminDown, Down, NeighborSignaledDown}, {Up, Down, Down, NeighborSignaledDown}, {Up, Init, Up, 0}, {Up, Up, Up, 0},
	} {
		p := newPair(timers(time.Second, 3), timers(time.Second, 3))
		m := p.m[0]
		m.state = c.have
		m.receive(p.now, &packet{State: c.hear, My: 1, Your: 11, Multiplier: 3, MinTx: time.Second, MinRx: time.Second})
		if m.state != c.want || m.diag != c.diag {
			t.Errorf("%s hears %s: %s (%s), want %s", c.have, c.hear, m.state, m.diag, c.want)
		}
	}
}

func TestDetection(t *testing.T) {
	p := newPair(timers(100*time.Millisecond, 3), timers(100*time.Millisecond, 3))
	p.run(2 * time.Second)
	p.lose = func(from int) bool { return from == 1 }
	p.run(199 * time.Millisecond)
	p.want(t, "Up/Up Up/Up")
	p.run(102 * time.Millisecond)
	p.want(t, "Down/Down Down/Down") // the other was told
	if p.m[0].diag != DetectionTimeExpired || p.m[1].diag != NeighborSignaledDown || p.m[0].remoteDiscr != 0 {
		t.Errorf("%s, %s, remote discriminator %d", p.m[0].diag, p.m[1].diag, p.m[0].remoteDiscr)
	}
	p.run(time.Minute)
	p.want(t, "Down/Down Init/Down")
	p.lose = nil
	p.run(2 * time.Second)
	p.want(t, "Up/Up Up/Up")
}

// TestPace counts packets: one a second while not Up, and then with the jitter that the RFC wants.
func TestPace(t *testing.T) {
	p := newPair(timers(10*time.Millisecond, 3), timers(10*time.Millisecond, 3))
	p.lose = func(int) bool { return true }
	p.run(time.Minute)
	if n := p.sent[0]; n < 60 || n > 81 {
		t.Errorf("%d packets in a minute while Down", n)
	}
	for multiplier, within := range map[uint8][2]time.Duration{3: {75 * time.Millisecond, 100 * time.Millisecond}, 1: {75 * time.Millisecond, 90 * time.Millisecond}} {
		p := newPair(timers(100*time.Millisecond, multiplier), timers(100*time.Millisecond, multiplier))
		p.run(3 * time.Second)
		p.want(t, "Up/Up Up/Up")
		var before time.Time
		least, most := time.Hour, time.Duration(0)
		p.seen = func(from int, _ packet) {
			if from != 0 {
				return
			}
			if !before.IsZero() {
				least, most = min(least, p.now.Sub(before)), max(most, p.now.Sub(before))
			}
			before = p.now
		}
		p.run(time.Minute)
		p.want(t, "Up/Up Up/Up")
		if least < within[0] || most > within[1] || most-least < 10*time.Millisecond {
			t.Errorf("multiplier %d: from %s to %s between packets", multiplier, least, most)
		}
	}
}

// TestPollSequence: a longer interval waits for the peer's Final, a shorter one does not (RFC 5880, section 6.8.3).
func TestPollSequence(t *testing.T) {
	p := newPair(timers(100*time.Millisecond, 3), timers(100*time.Millisecond, 3))
	p.run(2 * time.Second)
	a := p.m[0]
	p.lose = func(from int) bool { return from == 1 && p.last[1].Final } // Finals are lost
	a.configure(p.now, 400*time.Millisecond, 50*time.Millisecond, 3)
	p.run(250 * time.Millisecond)
	if !p.last[0].Poll || p.last[0].MinTx != 400*time.Millisecond || a.txInterval() != 100*time.Millisecond || a.detectionTime() != 300*time.Millisecond {
		t.Errorf("before the Final: %+v, interval %s, detection %s", p.last[0], a.txInterval(), a.detectionTime())
	}
	p.lose = nil
	p.run(150 * time.Millisecond)
	if a.polling || a.txInterval() != 400*time.Millisecond || a.rxInterval() != 100*time.Millisecond || a.activeRx != 50*time.Millisecond {
		t.Errorf("after it: polling %t, intervals %s, %s", a.polling, a.txInterval(), a.rxInterval())
	}
	p.run(5 * time.Second)
	a.configure(p.now, 20*time.Millisecond, 20*time.Millisecond, 2)
	if a.txInterval() != 100*time.Millisecond { // what the peer takes
		t.Errorf("interval %s", a.txInterval())
	}
	p.run(5 * time.Second)
	p.want(t, "Up/Up Up/Up")
}

// TestPollsDoNotMix: the Final to a Poll with former values does not end a Poll Sequence for later ones.
func TestPollsDoNotMix(t *testing.T) {
	p := newPair(timers(100*time.Millisecond, 3), timers(100*time.Millisecond, 3))
	p.run(2 * time.Second)
	a := p.m[0]
	final := packet{State: Up, Final: true, My: 22, Your: 11, Multiplier: 3, MinTx: 100 * time.Millisecond, MinRx: 100 * time.Millisecond}
	a.configure(p.now, 200*time.Millisecond, 100*time.Millisecond, 3)
	a.configure(p.now, 300*time.Millisecond, 100*time.Millisecond, 3)
	a.receive(p.now, &final)
	if a.settled() || a.activeTx != 100*time.Millisecond {
		t.Errorf("settled after the first Final: %s", a.activeTx)
	}
	a.receive(p.now, &final)
	if !a.settled() || a.activeTx != 300*time.Millisecond {
		t.Errorf("not settled after the second: %s", a.activeTx)
	}
}

// TestFloor is what an upgrade does: slower, and back.
func TestFloor(t *testing.T) {
	p := newPair(timers(10*time.Millisecond, 3), timers(10*time.Millisecond, 3))
	p.run(2 * time.Second)
	p.m[0].setFloor(p.now, upgradeFloor)
	p.run(50 * time.Millisecond)
	if !p.m[0].settled() || p.m[1].detectionTime() != 3*time.Second {
		t.Errorf("the peer waits %s", p.m[1].detectionTime())
	}
	p.m[0].setFloor(p.now, 0)
	p.run(2 * time.Second)
	if p.m[1].detectionTime() != 30*time.Millisecond {
		t.Errorf("the peer waits %s", p.m[1].detectionTime())
	}
	p.want(t, "Up/Up Up/Up")
}

func TestAdminDown(t *testing.T) {
	p := newPair(timers(100*time.Millisecond, 3), timers(100*time.Millisecond, 3))
	p.run(2 * time.Second)
	p.sent[0] = 0
	lost := 0
	p.lose = func(from int) bool { lost++; return from == 0 && lost < burstCopies } // all copies but the last
	p.m[0].admin(p.now, true)
	p.run(200 * time.Millisecond)
	if p.m[1].state != Down || p.m[1].diag != NeighborSignaledDown || p.sent[0] != burstCopies || !p.m[0].quiet() {
		t.Errorf("%s after %d packets, %s", p, p.sent[0], p.m[1].diag)
	}
	p.lose = nil
	p.run(time.Minute)
	p.want(t, "AdminDown/Down Down/AdminDown")
	p.m[0].admin(p.now, false)
	p.run(3 * time.Second)
	p.want(t, "Up/Up Up/Up")
}

// TestUnwanted: a peer that requires an interval of 0 wants no packets but the answers to its Polls.
func TestUnwanted(t *testing.T) {
	p := newPair(timers(100*time.Millisecond, 3), timers(100*time.Millisecond, 3))
	p.run(2 * time.Second)
	a := p.m[0]
	said := packet{State: Up, My: 22, Your: 11, Multiplier: 3, MinTx: 100 * time.Millisecond, MinRx: 0}
	a.receive(p.now, &said)
	var out packet
	if a.outgoing(p.now.Add(time.Minute), &out) {
		t.Errorf("unwanted: %+v", out)
	}
	said.Poll = true
	a.receive(p.now, &said)
	if !a.outgoing(p.now, &out) || !out.Final || out.Poll || a.outgoing(p.now, &out) {
		t.Errorf("answer to a Poll: %+v", out)
	}
	said.Poll, said.MinRx = false, 50*time.Millisecond
	a.receive(p.now.Add(time.Second), &said)
	if !a.outgoing(p.now.Add(time.Second), &out) {
		t.Error("wanted again, and silent")
	}
	said.MinRx, said.Demand = 50*time.Millisecond, true
	a.receive(p.now.Add(time.Second), &said)
	if a.outgoing(p.now.Add(time.Minute), &out) {
		t.Errorf("to a peer in demand mode: %+v", out)
	}
	a.receive(p.now, &packet{State: Up, My: 22, Your: 11, Multiplier: 3, MinTx: 100 * time.Millisecond})
	a.expire(p.now.Add(time.Hour))
	if a.state != Down || !a.outgoing(p.now.Add(time.Hour), &out) {
		t.Error("a peer that wanted nothing and is gone is never greeted again")
	}
}

// TestLossyWire has two machines with random timers live through random loss, silence and changes, and wants them Up again
// soon after it has ended.
func TestLossyWire(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		some := func() Session {
			return Session{
				MinTx: MinInterval + time.Duration(rnd.Int64N(int64(500*time.Millisecond))), MinRx: MinInterval + time.Duration(rnd.Int64N(int64(500*time.Millisecond))),
				Multiplier: uint8(1 + rnd.IntN(5)),
			}
		}
		p := newPair(some(), some())
		for range 20 {
			loss := rnd.IntN(100)
			p.lose = func(int) bool { return rnd.IntN(100) < loss }
			m := p.m[rnd.IntN(2)]
			switch s := some(); rnd.IntN(4) {
			case 0:
				m.configure(p.now, s.MinTx, s.MinRx, s.Multiplier)
			case 1:
				m.admin(p.now, m.state != AdminDown)
			case 2:
				m.setFloor(p.now, time.Duration(rnd.IntN(2))*upgradeFloor)
			}
			p.run(time.Duration(rnd.Int64N(int64(5 * time.Second))))
		}
		p.lose = nil
		p.m[0].admin(p.now, false)
		p.m[1].admin(p.now, false)
		p.run(30 * time.Second)
		if p.String() != "Up/Up Up/Up" || !p.m[0].settled() || !p.m[1].settled() {
			t.Fatalf("seed %d: %s\n%+v\n%+v", seed, p, p.m[0], p.m[1])
		}
		states := p.String()
		p.seen = func(int, packet) {
			if p.String() != states {
				t.Fatalf("seed %d: a flap on a perfect wire: %s", seed, p)
			}
		}
		p.run(10 * time.Second)
	}
}
