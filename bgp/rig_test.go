package bgp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/server"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// The test binary is the speaker process when this variable holds its socket.
const (
	speakerEnv = "BGP_TEST_SPEAKER"
	inspectEnv = "BGP_TEST_INSPECT"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(speakerEnv); socket != "" {
		runSpeaker(socket)
	}
	goleak.VerifyTestMain(m)
}

func runSpeaker(socket string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	opts := server.Options{
		Socket: socket, User: "hostfabric-test-nobody", Version: "test-1",
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	if s := os.Getenv(inspectEnv); s != "" {
		opts.Inspect = strings.Split(s, ",")
	}
	if err := server.Run(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var eventually = nstest.Eventually

// process is a speaker process in a namespace.
type process struct {
	cmd  *exec.Cmd
	out  *nstest.Output
	done chan struct{}
}

func startSpeaker(t testing.TB, ns netns.NS, socket string, inspect ...string) *process {
	t.Helper()
	p, err := launch(ns, socket, inspect...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("speaker %s:\n%s", filepath.Base(filepath.Dir(socket)), p.out)
		}
	})
	return p
}

func launch(ns netns.NS, socket string, inspect ...string) (*process, error) {
	p := &process{cmd: exec.Command("/proc/self/exe"), out: &nstest.Output{}, done: make(chan struct{})}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p.cmd.Path = exe
	p.cmd.Env = append(os.Environ(), speakerEnv+"="+socket, inspectEnv+"="+strings.Join(inspect, ","))
	p.cmd.Stderr = p.out
	if err := ns.Start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	return p, nil
}

// signal sends it and waits for the end of the process.
func (p *process) signal(sig syscall.Signal) {
	p.cmd.Process.Signal(sig)
	<-p.done
}

// fabric records what a speaker's consumer was told.
type fabric struct {
	mu     sync.Mutex
	routes map[netip.Prefix][]netip.Addr
	synced int
	gone   []netip.Prefix // every withdrawal
	calls  int            // of Routes
	peers  []string
	status []string // of the speaker
	said   []string // changes of the announcements
}

func (f *fabric) events() bgp.Events {
	return bgp.Events{
		Routes: func(up []bgp.LearnedRoute, down []netip.Prefix) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.calls++
			for _, r := range up {
				f.routes[r.Prefix] = r.NextHops
			}
			for _, p := range down {
				delete(f.routes, p)
			}
			f.gone = append(f.gone, down...)
		},
		Synced: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.synced++
		},
		Announced: func(added, withdrawn []netip.Prefix) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.said = append(f.said, fmt.Sprint("+", added, " -", withdrawn))
		},
		Peer: func(p bgp.PeerStatus) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.peers = append(f.peers, p.Address.String()+" "+p.State)
		},
		Status: func(s bgp.Status) {
			f.mu.Lock()
			defer f.mu.Unlock()
			word := "lost"
			if s.Connected {
				word = "found"
			}
			if s.Synced {
				word = "synced"
			}
			f.status = append(f.status, word)
		},
	}
}

func (f *fabric) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, p := range slices.SortedFunc(maps.Keys(f.routes), netip.Prefix.Compare) {
		fmt.Fprintf(&b, "%s via %v; ", p, f.routes[p])
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func (f *fabric) want(t testing.TB, within time.Duration, want string) {
	t.Helper()
	eventually(t, within, func() error {
		if got := f.String(); got != want {
			return fmt.Errorf("routes learned: %q, want %q", got, want)
		}
		return nil
	})
}

func (f *fabric) told() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.status, " ")
}

func (f *fabric) waitSynced(t testing.TB, n int) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.synced < n {
			return fmt.Errorf("synced %d times, want %d", f.synced, n)
		}
		return nil
	})
}

// node is a speaker process with its client.
type node struct {
	*bgp.Speaker
	ns     netns.NS
	socket string
	proc   *process
	fabric *fabric
	log    *nstest.Output // of the client
	warm   bool           // what the client is told about a restart
	blame  string         // the client's BlameFile
	stop   func()
}

func newNode(t testing.TB, ns netns.NS, name string, inspect ...string) *node {
	t.Helper()
	n := &node{ns: ns, socket: filepath.Join(t.TempDir(), name, "gobgp.sock")}
	n.proc = startSpeaker(t, ns, n.socket, inspect...)
	n.connect(t)
	return n
}

// connect starts a client, as a new agent would; stop ends it.
func (n *node) connect(t testing.TB) {
	t.Helper()
	n.fabric = &fabric{routes: map[netip.Prefix][]netip.Addr{}}
	n.Speaker = bgp.New(bgp.Options{
		Socket: n.socket, Log: n.testLog(t, filepath.Base(filepath.Dir(n.socket))), Events: n.fabric.events(),
		WarmRestart: func() bool { return n.warm }, BlameFile: n.blame,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func(s *bgp.Speaker) { done <- s.Run(ctx) }(n.Speaker)
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	eventually(t, 10*time.Second, func() error {
		if st := n.Status(); !st.Connected || st.Version != "test-1" {
			return fmt.Errorf("status %+v\n%s", st, n.proc.out)
		}
		return nil
	})
}

func (n *node) testLog(t testing.TB, name string) *slog.Logger {
	b := &nstest.Output{}
	n.log = b
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("client %s:\n%s", name, b)
		}
	})
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// loggedErrors counts the alarms in the client's log.
func (n *node) loggedErrors() int { return strings.Count(n.log.String(), "level=ERROR") }

// respawn kills the speaker process and starts another.
func (n *node) respawn(t testing.TB) {
	t.Helper()
	n.proc.signal(syscall.SIGKILL)
	n.proc = startSpeaker(t, n.ns, n.socket)
}

func (n *node) configure(t testing.TB, c bgp.Config, prefixes ...string) {
	t.Helper()
	n.announce(t, prefixes...)
	if err := n.Configure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func (n *node) announce(t testing.TB, prefixes ...string) {
	t.Helper()
	var set []bgp.Announcement
	for _, p := range prefixes {
		set = append(set, bgp.Announcement{Prefix: netip.MustParsePrefix(p)})
	}
	if err := n.Announce(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}

func (n *node) peer(t testing.TB, addr string) bgp.PeerStatus {
	t.Helper()
	list, err := n.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Address.String() == addr {
			return p
		}
	}
	t.Fatalf("no peer %s in %+v", addr, list)
	return bgp.PeerStatus{}
}

func (n *node) established(t testing.TB, addr string) bgp.PeerStatus {
	t.Helper()
	var p bgp.PeerStatus
	eventually(t, 20*time.Second, func() error {
		if p = n.peer(t, addr); p.State != bgp.StateEstablished {
			return fmt.Errorf("peer %s: %s, last down: %q", addr, p.State, p.LastDown)
		}
		return nil
	})
	return p
}

// admitted waits until a warm restart has begun with some peer.
func (n *node) admitted(t testing.TB) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		list, err := n.Peers(t.Context())
		if err == nil && !slices.ContainsFunc(list, func(p bgp.PeerStatus) bool { return p.LocalRestarting }) {
			err = errors.New("no peer admitted yet")
		}
		return err
	})
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
