package bgp_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/hostile"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// keeper starts a node's speaker again whenever it ends, as the agent's supervisor does.
type keeper struct {
	deaths atomic.Int32
	mu     sync.Mutex // guards what follows
	dead   []*process
	proc   *process
}

func keepRunning(t *testing.T, n *node) *keeper {
	t.Helper()
	k := &keeper{proc: n.proc}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			p := k.running()
			select {
			case <-ctx.Done():
				p.signal(syscall.SIGKILL)
				return
			case <-p.done:
			}
			next, err := launch(n.ns, n.socket)
			if err != nil {
				t.Errorf("start the speaker again: %v", err)
				return
			}
			k.mu.Lock()
			k.dead, k.proc = append(k.dead, p), next
			k.mu.Unlock()
			k.deaths.Add(1)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return k
}

func (k *keeper) running() *process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.proc
}

// lastWords is what the last process that ended wrote.
func (k *keeper) lastWords() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.dead) == 0 {
		return ""
	}
	return k.dead[len(k.dead)-1].out.String()
}

// attack runs a hostile router in a namespace, at one of its addresses.
func attack(t testing.TB, ns netns.NS, address string, s *hostile.Server) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "179"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

var badPeer = hostile.Peer{ASN: 65102, RouterID: addr("192.0.2.102"), HoldTime: 9, Restart: true}

// battlefield is a host between a good router at 10.0.1.0 and a hostile one at 10.0.2.0.
type battlefield struct {
	host, tor *node
	bad       netns.NS
	conf      bgp.Config
}

func newBattlefield(t *testing.T, badFirst bool) *battlefield {
	t.Helper()
	b := &battlefield{bad: nstest.New(t, "bad")}
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 1)
	cable(t, h, b.bad, 2)
	b.tor = newNode(t, r, "tor")
	conf := torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true})
	conf.GracefulRestart.HelperOnly = true
	b.tor.configure(t, conf, "10.64.2.0/26")
	b.host = &node{ns: h, socket: filepath.Join(t.TempDir(), "host", "gobgp.sock"), blame: filepath.Join(t.TempDir(), "blame.json")}
	b.host.proc = startSpeaker(t, h, b.host.socket)
	b.host.connect(t)
	b.conf = hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100}, bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102})
	if badFirst {
		slices.Reverse(b.conf.Peers)
	}
	return b
}

func (b *battlefield) start(t *testing.T) {
	t.Helper()
	b.host.configure(t, b.conf, "10.64.1.0/26")
	b.tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
}

// up waits for a session, and for the speaker if it is away.
func (b *battlefield) up(t *testing.T, peer string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		list, err := b.host.Peers(t.Context())
		if err == nil && !slices.ContainsFunc(list, func(p bgp.PeerStatus) bool { return p.Address == addr(peer) && p.State == bgp.StateEstablished }) {
			err = fmt.Errorf("%s is not established: %+v", peer, list)
		}
		return err
	})
}

// held waits until the hostile router is held down for the n-th time.
func (b *battlefield) held(t *testing.T, within time.Duration, times string) bgp.PeerStatus {
	t.Helper()
	var p bgp.PeerStatus
	eventually(t, within, func() error {
		list, err := b.host.Peers(t.Context())
		if err != nil {
			return err
		}
		for _, p = range list {
			if p.Address == addr("10.0.2.0") && p.State == bgp.StateHeld && strings.Contains(p.LastDown, times) {
				return nil
			}
		}
		return fmt.Errorf("not held down %s: %+v", times, list)
	})
	return p
}

// unharmed fails if the good router ever lost our route, or we lost its.
func (b *battlefield) unharmed(t *testing.T) {
	t.Helper()
	b.tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	b.host.fabric.want(t, 10*time.Second, "10.64.2.0/26 via [10.0.1.0]")
	for _, n := range []*node{b.tor, b.host} {
		n.fabric.mu.Lock()
		if len(n.fabric.gone) > 0 {
			t.Errorf("withdrawn meanwhile: %v", n.fabric.gone)
		}
		n.fabric.mu.Unlock()
	}
}

// TestDeadlyUpdates shows that each of the two kills the speaker by a panic, that the first one already has its sender held
// down, that the second one doubles the time, and that the good router's routes stay in their places.
func TestDeadlyUpdates(t *testing.T) {
	t.Parallel()
	for _, item := range hostile.Deadly(badPeer)[:2] {
		for _, badFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, hostile first %t", item.Name, badFirst), func(t *testing.T) {
				t.Parallel()
				b := newBattlefield(t, badFirst)
				b.start(t)
				b.host.fabric.want(t, 10*time.Second, "10.64.2.0/26 via [10.0.1.0]")
				k := keepRunning(t, b.host)
				srv := &hostile.Server{Peer: badPeer, Attack: func() *hostile.Item { return &item }}
				attack(t, b.bad, "10.0.2.0", srv)

				p := b.held(t, 30*time.Second, "died once on its messages")
				if d := k.deaths.Load(); d != 1 {
					t.Errorf("the speaker died %d times", d)
				}
				if out := k.lastWords(); !strings.Contains(out, "panic: ") || !strings.Contains(out, "recvMessageWithError") {
					t.Errorf("the speaker died, but not as known:\n%s", out)
				}
				t.Logf("after %d sessions: %s", srv.Sessions(), p.LastDown)
				if st := b.host.Status(); st.Crashes != 1 {
					t.Errorf("%d crashes counted", st.Crashes)
				}
				b.up(t, "10.0.1.0")
				b.unharmed(t)

				// A new agent remembers.
				b.host.stop()
				b.host.connect(t)
				if err := b.host.Configure(t.Context(), b.conf); err != nil {
					t.Fatal(err)
				}
				b.host.announce(t, "10.64.1.0/26")
				if again := b.held(t, 5*time.Second, "died once"); again.LastDown != p.LastDown {
					t.Errorf("a new agent says %q", again.LastDown)
				}

				p = b.held(t, 40*time.Second, "died 2 times on its messages")
				if d := k.deaths.Load(); d != 2 {
					t.Errorf("the speaker died %d times", d)
				}
				t.Logf("then %s", p.LastDown)
				b.up(t, "10.0.1.0")
				b.unharmed(t)
			})
		}
	}
}

// TestDeadlyMessages shows the same, once, of every other place where GoBGP is known to panic.
func TestDeadlyMessages(t *testing.T) {
	t.Parallel()
	for _, item := range hostile.Deadly(badPeer)[2:] {
		t.Run(item.Name, func(t *testing.T) {
			t.Parallel()
			b := newBattlefield(t, false)
			b.start(t)
			b.host.fabric.want(t, 10*time.Second, "10.64.2.0/26 via [10.0.1.0]")
			k := keepRunning(t, b.host)
			attack(t, b.bad, "10.0.2.0", &hostile.Server{Peer: badPeer, Attack: func() *hostile.Item { return &item }})
			p := b.held(t, 30*time.Second, "died once on its messages")
			_, report, _ := strings.Cut(k.lastWords(), "panic: ")
			t.Logf("%s, after %.300s", p.LastDown, report)
			b.up(t, "10.0.1.0")
			b.unharmed(t)
		})
	}
}

// TestCrashThatNamesNobody: the peers are tried in turns until the one is found.
func TestCrashThatNamesNobody(t *testing.T) {
	t.Parallel()
	for _, badFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("hostile first %t", badFirst), func(t *testing.T) {
			t.Parallel()
			b := newBattlefield(t, badFirst)
			b.start(t)
			b.host.fabric.want(t, 10*time.Second, "10.64.2.0/26 via [10.0.1.0]")
			k := keepRunning(t, b.host)
			item := hostile.OpenAgain(badPeer)
			item.After = 5 * time.Second // later than the good router takes to come up
			attack(t, b.bad, "10.0.2.0", &hostile.Server{Peer: badPeer, Attack: func() *hostile.Item { return &item }})
			p := b.held(t, 90*time.Second, "after the speaker process died once on its messages")
			t.Logf("after %d deaths: %s", k.deaths.Load(), p.LastDown)
			b.up(t, "10.0.1.0")
			b.unharmed(t)
		})
	}
}

// TestKilledSpeakerBlamesNobody: an operator, or the kernel short of memory, says nothing about the peers.
func TestKilledSpeakerBlamesNobody(t *testing.T) {
	t.Parallel()
	b := newBattlefield(t, false)
	b.start(t)
	attack(t, b.bad, "10.0.2.0", &hostile.Server{Peer: badPeer})
	b.host.established(t, "10.0.2.0")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		b.host.proc.signal(sig)
		b.host.proc = startSpeaker(t, b.host.ns, b.host.socket)
		b.up(t, "10.0.2.0")
		b.up(t, "10.0.1.0")
	}
	if st := b.host.Status(); st.Crashes != 0 {
		t.Errorf("%d crashes counted", st.Crashes)
	}
}

// TestOnlyPeerAttacks: a host whose only peer attacks is not left without one for long, and keeps what it learned.
func TestOnlyPeerAttacks(t *testing.T) {
	t.Parallel()
	b := newBattlefield(t, false)
	b.conf.Peers = b.conf.Peers[1:]
	b.host.configure(t, b.conf, "10.64.1.0/26")
	k := keepRunning(t, b.host)
	item := hostile.UnknownSubTLV(badPeer.ASN)
	attack(t, b.bad, "10.0.2.0", &hostile.Server{Peer: badPeer, Attack: func() *hostile.Item { return &item }})
	eventually(t, 60*time.Second, func() error {
		if d := k.deaths.Load(); d < 4 { // by their doubling alone, the waits would be 10, 20 and 40 s
			return fmt.Errorf("the peer was tried %d times", d)
		}
		return nil
	})
}
