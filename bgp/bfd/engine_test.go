package bfd

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// engineInNS gives fn an engine without a thread of its own, in a namespace where port 3784 is free.
func engineInNS(t *testing.T, fn func(e *engine) error) {
	t.Helper()
	err := nstest.New(t, "host").Do(func() error {
		e, err := newEngine(newHub())
		if err != nil {
			return err
		}
		defer e.close()
		e.now = time.Now()
		return fn(e)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (e *engine) step() error {
	if err := e.sleep(e.wake()); err != nil {
		return err
	}
	e.turn()
	return nil
}

// TestNoAllocation has a session with itself, over loopback, through real sockets, and counts allocations while it is Up.
func TestNoAllocation(t *testing.T) {
	for name, peer := range map[string]string{"IPv4": "127.0.0.1", "IPv6": "::1"} {
		t.Run(name, func(t *testing.T) {
			engineInNS(t, func(e *engine) error {
				e.add(Session{Peer: netip.MustParseAddr(peer), MinTx: MinInterval, MinRx: MinInterval, Multiplier: 50})
				s := e.sessions[0]
				for deadline := time.Now().Add(10 * time.Second); s.state != Up || s.polling || s.detectionTime() > time.Second; {
					if err := e.step(); err != nil {
						return err
					}
					if time.Now().After(deadline) {
						t.Fatalf("%+v", s.status())
					}
				}
				in, out := s.in, s.out
				allocs := testing.AllocsPerRun(200, func() {
					if err := e.step(); err != nil {
						t.Error(err)
					}
				})
				if allocs != 0 {
					t.Errorf("%v allocations a turn", allocs)
				}
				if s.in-in < 80 || s.out-out < 80 {
					t.Errorf("only %d packets in and %d out", s.in-in, s.out-out)
				}
				return nil
			})
		})
	}
}

// TestDescheduled: what waits in the socket counts, however late this thread comes to it; and if nothing waits, a peer is
// given an interval more, once, because the thread's absence may be why.
func TestDescheduled(t *testing.T) {
	engineInNS(t, func(e *engine) error {
		e.add(Session{Peer: netip.MustParseAddr("127.0.0.1"), MinTx: MinInterval, MinRx: MinInterval, Multiplier: 3})
		s := e.sessions[0]
		for deadline := time.Now().Add(10 * time.Second); s.state != Up || s.polling || s.detectionTime() > time.Second; {
			if err := e.step(); err != nil {
				return err
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", s.status())
			}
		}
		e.transmit(s) // to itself: a packet waits now
		s.urgent = true
		e.transmit(s)
		e.now = e.now.Add(time.Hour) // asleep
		e.fds[0].Revents = 0
		e.turn()
		if s.state != Up {
			t.Errorf("a packet was waiting: %+v", s.status())
		}
		for _, r := range e.receivers { // the peer goes silent
			for r != nil && r.next(&e.arr) {
			}
		}
		before := e.now
		e.now = s.detectAt.Add(time.Hour)
		e.excuse()
		if !s.detectAt.Equal(e.now.Add(s.rxInterval())) {
			t.Errorf("detection at %s, asleep from %s to %s", s.detectAt, before, e.now)
		}
		e.now = s.detectAt
		e.excuse()
		s.expire(e.now)
		if s.state != Down || s.diag != DetectionTimeExpired {
			t.Errorf("a silent peer is excused for ever: %+v", s.status())
		}
		return nil
	})
}

// TestDemultiplexing sends packets that are for a session but for one thing.
func TestDemultiplexing(t *testing.T) {
	engineInNS(t, func(e *engine) error {
		e.add(Session{Peer: netip.MustParseAddr("10.0.0.1"), Interface: "lo", MinTx: usualInterval, MinRx: usualInterval, Multiplier: 3})
		e.add(Session{Peer: netip.MustParseAddr("10.0.0.2"), MinTx: usualInterval, MinRx: usualInterval, Multiplier: 3})
		bound, free := e.sessions[0], e.sessions[1]
		lo := e.ifindex("lo")
		if lo <= 0 || bound.ifindex != lo || bound.discr == free.discr || bound.discr == 0 {
			t.Fatalf("interface %d: %+v", lo, bound)
		}
		good := packet{State: Down, Multiplier: 3, My: 7, MinTx: time.Second, MinRx: time.Second}
		send := func(from string, ifindex, ttl int, p packet) {
			b := make([]byte, packetLen)
			p.encode(b)
			e.receive(&arrival{from: netip.MustParseAddr(from), ifindex: ifindex, ttl: ttl, data: b})
		}
		knows := good
		knows.Your = bound.discr
		stranger := good
		stranger.Your = bound.discr ^ free.discr
		send("10.0.0.1", lo+1, fullTTL, good)   // another interface
		send("10.0.0.3", lo, fullTTL, good)     // another peer
		send("10.0.0.1", lo, fullTTL, stranger) // another session
		if e.strangers != 3 || bound.in+bound.bad+free.in+free.bad != 0 {
			t.Errorf("%d strangers; %+v; %+v", e.strangers, bound.status(), free.status())
		}
		send("10.0.0.1", lo, fullTTL-1, good)
		send("10.0.0.1", lo, -1, good)
		send("10.0.0.1", lo+1, fullTTL, knows)
		send("10.0.0.3", lo, fullTTL, knows)
		e.receive(&arrival{from: netip.MustParseAddr("10.0.0.1"), ifindex: lo, ttl: fullTTL, data: []byte("not BFD")})
		if bound.bad != 5 || bound.in != 0 || bound.state != Down {
			t.Errorf("%+v", bound.status())
		}
		send("10.0.0.1", lo, fullTTL, knows)
		send("10.0.0.2", lo, fullTTL, good)
		send("10.0.0.2", lo+1, fullTTL, good) // this one may come from anywhere
		if bound.in != 1 || bound.state != Init || free.in != 2 || free.state != Init {
			t.Errorf("%+v; %+v", bound.status(), free.status())
		}
		return nil
	})
}

const usualInterval = 100 * time.Millisecond

// TestPortTaken: another BFD on the host is named, and the session works once it is gone.
func TestPortTaken(t *testing.T) {
	engineInNS(t, func(e *engine) error {
		other, err := openReceiver(false)
		if err != nil {
			return err
		}
		e.add(Session{Peer: netip.MustParseAddr("127.0.0.1"), MinTx: usualInterval, MinRx: usualInterval, Multiplier: 3})
		if got := e.sessions[0].status().Error; !strings.HasPrefix(got, "IPv4 port 3784 is taken by another program: stop its BFD (bfdd, bird)") {
			t.Errorf("error %q", got)
		}
		unix.Close(other.fd)
		e.housekeep()
		if got := e.sessions[0].status().Error; got != "" {
			t.Errorf("error %q", got)
		}
		return nil
	})
}
