package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni"
)

// shimPath is the real binary, built once for all tests.
var shimPath string

// listenEnv has the test binary listen on the socket it names, for a listener that belongs to another user.
const listenEnv = "HOSTFABRIC_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenEnv); path != "" {
		os.Exit(listenForever(path))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cni")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // a test runs it as another user
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shimPath = filepath.Join(dir, "hostfabric-cni")
	build := exec.Command("go", "build", "-o", shimPath, "github.com/hostfabric/hostfabric/cmd/hostfabric-cni")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the shim: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func listenForever(path string) int {
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer l.Close()
	fmt.Println("listening")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // until the test closes it
		return 1
	}
	return 0
}

// fabric is an agent in memory. Its hooks, if set, run first; their error is the call's. Tests set them with set.
type fabric struct {
	mu       sync.Mutex // guards all of it
	attached map[agent.Key]agent.Endpoint
	calls    []string // in the order they ended
	wanted   []agent.AttachRequest

	onAttach func(context.Context) error
	onDetach func(context.Context) error
	onCheck  func() (agent.Endpoint, error)
	onReady  func() error
}

func (f *fabric) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func get[T any](f *fabric, hook *T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *hook
}

func newFabric() *fabric { return &fabric{attached: map[agent.Key]agent.Endpoint{}} }

func (f *fabric) Attach(ctx context.Context, r agent.AttachRequest) (agent.Endpoint, error) {
	if hook := get(f, &f.onAttach); hook != nil {
		if err := hook(ctx); err != nil {
			return agent.Endpoint{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "attach "+r.String())
	f.wanted = append(f.wanted, r)
	if ep, ok := f.attached[r.Key]; ok {
		return ep, nil
	}
	ep := agent.Endpoint{
		Key: r.Key, Owner: r.Owner, Netns: r.Netns, HostInterface: "hf0123456789ab", MAC: "02:00:00:00:00:02", HostMAC: "02:00:00:00:00:01", MTU: 1500,
		Addresses: addrs("10.64.0.7", "fd00:64::7"), Gateways: addrs("169.254.1.1", "fe80::1"),
	}
	unwanted := func(a netip.Addr) bool { return !r.Family.Has(a) }
	ep.Addresses, ep.Gateways = slices.DeleteFunc(ep.Addresses, unwanted), slices.DeleteFunc(ep.Gateways, unwanted)
	f.attached[r.Key] = ep
	return ep, nil
}

func (f *fabric) Detach(ctx context.Context, k agent.Key) (bool, error) {
	if hook := get(f, &f.onDetach); hook != nil {
		if err := hook(ctx); err != nil {
			return false, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "detach "+k.String())
	_, found := f.attached[k]
	delete(f.attached, k)
	return found, nil
}

func (f *fabric) Check(_ context.Context, r agent.CheckRequest) (agent.Endpoint, error) {
	if hook := get(f, &f.onCheck); hook != nil {
		return hook()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ep, ok := f.attached[r.Key]
	if !ok {
		return ep, fmt.Errorf("check %s: %w", r.Key, agent.ErrNotFound)
	}
	return ep, nil
}

func (f *fabric) Collect(_ context.Context, owner string, valid []agent.Key) (detached []agent.Key, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep := map[agent.Key]bool{}
	for _, k := range valid {
		keep[k] = true
	}
	for k, ep := range f.attached {
		if ep.Owner == owner && !keep[k] {
			delete(f.attached, k)
			detached = append(detached, k)
		}
	}
	return detached, nil
}

func (f *fabric) Ready(context.Context) error {
	if hook := get(f, &f.onReady); hook != nil {
		return hook()
	}
	return nil
}

func (f *fabric) has(container string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.attached[agent.Key{ContainerID: container, Interface: "eth0"}]
	return ok
}

func (f *fabric) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.attached)
}

func (f *fabric) history() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, ", ")
}

func addrs(texts ...string) []netip.Addr {
	var as []netip.Addr
	for _, t := range texts {
		as = append(as, netip.MustParseAddr(t))
	}
	return as
}

// host is where an agent can be: a socket and a spool.
type host struct{ socket, spool string }

func newHost(t *testing.T) host {
	t.Helper()
	dir, err := os.MkdirTemp("", "cni") // t.TempDir can exceed a socket's 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return host{filepath.Join(dir, "cni.sock"), filepath.Join(dir, "spool")}
}

// serve runs a front-end until stop or the test's end. What it logs is shown if the test fails.
func (h host) serve(t *testing.T, f *fabric) (stop func()) {
	t.Helper()
	return h.serveWith(t, cni.Options{Endpoints: f})
}

// serveWith is serve with options; those of the host are set here.
func (h host) serveWith(t *testing.T, o cni.Options) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		o.Spool, o.Drain = h.spool, 10*time.Millisecond
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		done <- cni.Serve(ctx, l, o)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Logf("agent's log:\n%s", log.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// conf is a network config for this host; changes replace keys, nil removes one.
func (h host) conf(changes map[string]any) string {
	c := map[string]any{"cniVersion": "1.1.0", "name": "fabric", "type": "hostfabric-cni", "socket": h.socket, "spool": h.spool, "timeout": "20s"}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// reply is what a shim's process did.
type reply struct {
	code   int
	stdout string
	err    struct {
		CNIVersion   string
		Code         int
		Msg, Details string
	}
}

// env is a usual environment for a verb.
func env(command, container string, more ...string) []string {
	return append([]string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container, "CNI_NETNS=/run/netns/" + container, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
	}, more...)
}

// shim runs the binary. A later variable of the environment replaces an earlier.
func shim(t *testing.T, env []string, stdin string) reply {
	t.Helper()
	return shimFrom(t, env, strings.NewReader(stdin))
}

func shimFrom(t *testing.T, env []string, stdin io.Reader) reply {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shimPath)
	cmd.Env = env
	cmd.Stdin = stdin
	return run(t, cmd)
}

func run(t *testing.T, cmd *exec.Cmd) reply {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	r := reply{code: cmd.ProcessState.ExitCode(), stdout: string(out)}
	if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit {
		t.Errorf("run the shim: %v", err)
	}
	if r.code != 0 {
		if err := json.Unmarshal(out, &r.err); err != nil || r.err.Code == 0 || r.err.Msg == "" || r.err.CNIVersion == "" {
			t.Errorf("exit %d without a CNI error on stdout: %q, %v; stderr %q", r.code, out, err, stderr.String())
		}
	}
	return r
}

func (r reply) wantOK(t *testing.T) {
	t.Helper()
	if r.code != 0 {
		t.Errorf("failed: %s", r.stdout)
	}
}

// wantError checks the CNI code and that the error's text holds a word.
func (r reply) wantError(t *testing.T, code int, word string) {
	t.Helper()
	if r.code != 1 || r.err.Code != code || !strings.Contains(r.err.Msg+": "+r.err.Details, word) {
		t.Errorf("got exit %d and %q, want code %d with %q", r.code, strings.TrimSpace(r.stdout), code, word)
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}
