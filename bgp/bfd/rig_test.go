package bfd_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// The test binary is a BFD process, or an agent's side of one, when one of these holds the socket.
const (
	serverEnv  = "BFD_TEST_SERVER"
	clientEnv  = "BFD_TEST_CLIENT"
	versionEnv = "BFD_TEST_VERSION_FILE" // whose content is the version of a BFD process
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(serverEnv); socket != "" {
		os.Exit(runServer(socket))
	}
	if socket := os.Getenv(clientEnv); socket != "" {
		os.Exit(runClient(socket))
	}
	if os.Getenv(witnessEnv) != "" {
		os.Exit(runWitness())
	}
	os.Exit(m.Run())
}

func runServer(socket string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	version, err := os.ReadFile(os.Getenv(versionEnv))
	if err == nil {
		err = bfd.Serve(ctx, bfd.ServerOptions{
			Socket: socket, User: "hostfabric-test-nobody", Version: string(version),
			Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// runClient is an agent that wants one session and says so on stdout once it has it.
func runClient(socket string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := bfd.NewClient(bfd.ClientOptions{Socket: socket, Changed: func(st bfd.Status) { fmt.Println(st.State) }})
	if err := c.Set(ctx, []bfd.Session{frrSession4(100 * time.Millisecond)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := c.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var eventually = nstest.Eventually

// rig is a host with a BFD process, cabled to an FRR and to a BIRD.
type rig struct {
	host, frrNS, birdNS netns.NS
	dir                 string // anybody may enter it
	binary              string // of the BFD process
	socket              string
	cmd                 *exec.Cmd
	ended               chan struct{}
	log                 *nstest.Output
	client              *bfd.Client
	stopClient          func()
	frr                 frr
	bird                bird

	mu     sync.Mutex
	events []bfd.Status
}

// newRig starts everything; no session is wanted yet. The routers want theirs at the interval, three times.
func newRig(t testing.TB, interval time.Duration, routersFirst ...string) *rig {
	t.Helper()
	r := &rig{host: nstest.New(t, "host"), frrNS: nstest.New(t, "frr"), birdNS: nstest.New(t, "bird")}
	cable := func(link string, ns netns.NS, n string) {
		err := netns.Cable(
			netns.End{NS: r.host, Link: link, Addresses: []string{"10." + n + ".0.1/31", "fd00:" + n + "::1/64", "fe80::1/64"}},
			netns.End{NS: ns, Link: "eth0", Addresses: []string{"10." + n + ".0.0/31", "fd00:" + n + "::a/64", "fe80::a/64"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	cable("tor1", r.frrNS, "1")
	cable("tor2", r.birdNS, "2")
	r.prepare(t)
	r.frr = startFRR(t, r.frrNS, interval, routersFirst...)
	r.bird = startBIRD(t, r.birdNS, r.dir, interval, routersFirst...)
	r.start(t)
	r.connect(t)
	return r
}

// prepare makes the folder of the BFD process.
func (r *rig) prepare(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bfd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.dir, r.binary, r.socket = dir, filepath.Join(dir, "bfd"), filepath.Join(dir, "run", "bfd.sock")
	install(t, r.binary)
	r.setVersion(t, "v1")
}

// install puts this test's binary to where a BFD process is started from and upgraded to.
func install(t testing.TB, path string) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, self); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) setVersion(t testing.TB, version string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "version"), []byte(version), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) start(t testing.TB) {
	t.Helper()
	r.log, r.ended = &nstest.Output{}, make(chan struct{})
	r.cmd = exec.Command(r.binary)
	r.cmd.Env = append(os.Environ(), serverEnv+"="+r.socket, versionEnv+"="+filepath.Join(r.dir, "version"))
	r.cmd.Stderr = r.log
	if err := r.host.Start(r.cmd); err != nil {
		t.Fatal(err)
	}
	cmd, ended, log := r.cmd, r.ended, r.log
	go func() {
		cmd.Wait() // how it ended is in ProcessState
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the BFD process:\n%s", log)
		}
	})
}

func (r *rig) connect(t testing.TB) {
	t.Helper()
	r.client = bfd.NewClient(bfd.ClientOptions{Socket: r.socket, Changed: func(st bfd.Status) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, st)
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.client.Run(ctx) }()
	r.stopClient = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stopClient)
	r.awaitVersion(t, "v1")
}

func (r *rig) awaitVersion(t testing.TB, want string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if version, pid, ok := r.client.Connected(); !ok || version != want || pid != r.cmd.Process.Pid {
			return fmt.Errorf("connected to %q, %d, %t\n%s", version, pid, ok, r.log)
		}
		return nil
	})
}

func (r *rig) set(t testing.TB, sessions ...bfd.Session) {
	t.Helper()
	if err := r.client.Set(t.Context(), sessions); err != nil {
		t.Fatal(err)
	}
}

// status returns a session as it is now.
func (r *rig) status(t testing.TB, peer netip.Addr, link string) bfd.Status {
	t.Helper()
	all, err := r.client.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range all {
		if st.Peer.WithZone("") == peer.WithZone("") && st.Interface == link {
			return st
		}
	}
	t.Fatalf("no session to %s on %s in %+v", peer, link, all)
	return bfd.Status{}
}

func session(peer, link, local string, interval time.Duration) bfd.Session {
	s := bfd.Session{Peer: netip.MustParseAddr(peer), Interface: link, MinTx: interval, MinRx: interval, Multiplier: 3}
	if local != "" {
		s.Local = netip.MustParseAddr(local)
	}
	return s
}

func frrSession4(interval time.Duration) bfd.Session {
	return session("10.1.0.0", "tor1", "10.1.0.1", interval)
}

// all are three sessions to each router: IPv4 with everything given, IPv6 with less, and link-local, where the source must be
// given because the interfaces also have an address of the kernel's making.
func all(interval time.Duration) []bfd.Session {
	return []bfd.Session{
		frrSession4(interval), session("fd00:1::a", "", "", interval), session("fe80::a%tor1", "", "fe80::1", interval),
		session("10.2.0.0", "tor2", "10.2.0.1", interval), session("fd00:2::a", "", "fd00:2::1", interval), session("fe80::a%tor2", "tor2", "fe80::1", interval),
	}
}

// awaitUp waits until all sessions are Up here and at the routers, at the negotiated interval.
func (r *rig) awaitUp(t testing.TB, sessions []bfd.Session, interval time.Duration) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		now, err := r.client.Refresh(t.Context())
		if err != nil {
			return err
		}
		if len(now) != len(sessions) {
			return fmt.Errorf("%d sessions, want %d", len(now), len(sessions))
		}
		for _, st := range now {
			if st.State != bfd.Up || st.RemoteState != bfd.Up || st.TxInterval != interval || st.RxInterval != interval || st.DetectionTime != 3*interval {
				return fmt.Errorf("%+v", st)
			}
		}
		return nil
	})
}

// downs are the losses that each side has counted: ours, FRR's and BIRD's.
func (r *rig) downs(t testing.TB) [3]uint64 {
	t.Helper()
	now, err := r.client.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var sum [3]uint64
	for _, st := range now {
		sum[0] += st.Downs
	}
	sum[1], sum[2] = r.frr.downs(t), r.bird.downs(t)
	return sum
}
