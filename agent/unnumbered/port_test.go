package unnumbered

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeWire records what is sent and when.
type fakeWire struct {
	in     chan packet
	closed chan struct{}
	close1 sync.Once

	mu         sync.Mutex
	advertised []time.Time
	solicited  []time.Time
	broken     bool
}

func newFakeWire() *fakeWire {
	return &fakeWire{in: make(chan packet), closed: make(chan struct{})}
}

func (w *fakeWire) receive() (packet, error) {
	select {
	case p := <-w.in:
		return p, nil
	case <-w.closed:
		return packet{}, errors.New("closed")
	}
}

func (w *fakeWire) advertise() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advertised = append(w.advertised, time.Now())
	if w.broken {
		return errors.New("no such device")
	}
	return nil
}

func (w *fakeWire) solicit() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.solicited = append(w.solicited, time.Now())
	return nil
}

func (w *fakeWire) probe(netip.Addr) error { return nil }
func (w *fakeWire) stale() bool            { return false }
func (w *fakeWire) close() error           { w.close1.Do(func() { close(w.closed) }); return nil }

func (w *fakeWire) counts() (advertised, solicited int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.advertised), len(w.solicited)
}

func (w *fakeWire) lastAdvertised() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.advertised[len(w.advertised)-1]
}

func TestPortTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire()
		var mu sync.Mutex
		var router netip.Addr
		p := newPort("eth0", func() (wire, error) { return w, nil }, func(a netip.Addr, _ string) {
			mu.Lock()
			defer mu.Unlock()
			router = a
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			p.run(ctx)
			close(done)
		}()
		wait := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}

		// Nobody there: one a second, each with a question.
		wait(10*time.Second + 500*time.Millisecond)
		if a, s := w.counts(); a != 11 || s != 11 {
			t.Errorf("in 10 s without a router: %d advertisements, %d solicitations, want 11 of each", a, s)
		}
		// A router, no session: they go on, questions become rare.
		w.in <- packet{from: address("a"), kind: routerAdvertisement}
		wait(gather)
		mu.Lock()
		if router != address("a") {
			t.Errorf("router %s", router)
		}
		mu.Unlock()
		a0, s0 := w.counts()
		wait(20 * time.Second)
		a, s := w.counts()
		if a-a0 != 20 || s-s0 != 20/solicitEvery {
			t.Errorf("in 20 s without a session: %d advertisements, %d solicitations", a-a0, s-s0)
		}
		// A session: every 10 to 30 s, at times that vary.
		p.setSession(true)
		synctest.Wait()
		a0, s0 = w.counts()
		wait(10 * time.Minute)
		a, s = w.counts()
		if n := a - a0; n < 20 || n > 60 || s != s0 {
			t.Errorf("in 10 minutes of a session: %d advertisements, %d solicitations", n, s-s0)
		}
		w.mu.Lock()
		gaps := map[time.Duration]bool{}
		for i := a0; i+1 < len(w.advertised); i++ {
			gap := w.advertised[i+1].Sub(w.advertised[i])
			gaps[gap] = true
			if gap < minInterval || gap > maxInterval {
				t.Errorf("%s between two advertisements", gap)
			}
		}
		w.mu.Unlock()
		if len(gaps) < 5 {
			t.Errorf("the times do not vary: %v", gaps)
		}
		// A solicitation is answered soon.
		asked := time.Now()
		w.in <- packet{kind: routerSolicitation}
		wait(maxReplyDelay)
		if got := w.lastAdvertised(); got.Before(asked) {
			t.Errorf("a solicitation was not answered within %s", maxReplyDelay)
		}
		// A lost session is told of at once.
		p.setSession(false)
		synctest.Wait()
		if got := w.lastAdvertised(); !got.Equal(time.Now()) {
			t.Errorf("last advertisement %s before the session was lost", time.Since(got))
		}
		cancel()
		<-done
	})
}

func TestPortComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var wires []*fakeWire
		var problems []string
		ready := false
		p := newPort("eth0", func() (wire, error) {
			mu.Lock()
			defer mu.Unlock()
			if !ready {
				return nil, errors.New("eth0 is down")
			}
			wires = append(wires, newFakeWire())
			return wires[len(wires)-1], nil
		}, func(_ netip.Addr, problem string) {
			mu.Lock()
			defer mu.Unlock()
			problems = append(problems, problem)
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			p.run(ctx)
			close(done)
		}()
		<-time.After(time.Second)
		synctest.Wait()
		mu.Lock()
		if len(problems) != 1 || problems[0] != "eth0 is down" {
			t.Errorf("told %q", problems)
		}
		ready = true
		mu.Unlock()
		<-time.After(time.Second)
		synctest.Wait()
		mu.Lock()
		first := wires[0]
		mu.Unlock()
		first.mu.Lock()
		first.broken = true
		first.mu.Unlock()
		<-time.After(2 * time.Second)
		synctest.Wait()
		mu.Lock()
		if len(wires) != 2 {
			t.Errorf("%d wires were opened, want a second one after the first broke", len(wires))
		}
		mu.Unlock()
		cancel()
		<-done
	})
}
