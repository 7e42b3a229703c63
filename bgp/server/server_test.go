package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
	"github.com/hostfabric/hostfabric/bgp/server"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// The test binary is a speaker process when these are set.
const (
	socketEnv  = "SERVER_TEST_SOCKET"
	inspectEnv = "SERVER_TEST_INSPECT"
	userEnv    = "SERVER_TEST_USER"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(socketEnv); socket != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := server.Run(ctx, server.Options{
			Socket: socket, Inspect: strings.Fields(os.Getenv(inspectEnv)), User: os.Getenv(userEnv), Version: "v-test",
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type proc struct {
	cmd    *exec.Cmd
	log    *nstest.Output
	done   chan struct{}
	socket string
}

// start runs the speaker, through a wrapper command if one is given.
func start(t *testing.T, socket, user string, inspect []string, wrapper ...string) *proc {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrapper, exe, "-marker", "argument")
	p := &proc{cmd: exec.Command(args[0], args[1:]...), log: &nstest.Output{}, done: make(chan struct{}), socket: socket}
	p.cmd.Env = append(os.Environ(), socketEnv+"="+socket, inspectEnv+"="+strings.Join(inspect, " "), userEnv+"="+user)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait() // its result is read from ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if t.Failed() {
			t.Log(p.log)
		}
	})
	return p
}

func (p *proc) end(sig syscall.Signal) int {
	p.cmd.Process.Signal(sig)
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

var eventually = nstest.Eventually

func dial(t *testing.T, target string) (*grpc.ClientConn, api.GobgpApiClient) {
	t.Helper()
	cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc, api.NewGobgpApiClient(cc)
}

// ready waits until the private socket answers and returns its client and what the headers tell.
func (p *proc) ready(t *testing.T) (api.GobgpApiClient, metadata.MD) {
	t.Helper()
	_, c := dial(t, "unix://"+p.socket)
	var md metadata.MD
	eventually(t, 10*time.Second, func() error {
		_, err := c.GetBgp(t.Context(), &api.GetBgpRequest{}, grpc.Header(&md), grpc.WaitForReady(false))
		if err != nil {
			return fmt.Errorf("%w\n%s", err, p.log)
		}
		return nil
	})
	return c, md
}

func socketIn(t *testing.T) string { return filepath.Join(t.TempDir(), "run", "gobgp.sock") }

// status reads the fields of /proc/PID/status.
func procStatus(t *testing.T, pid string) map[string]string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.Join(strings.Fields(v), " ")
	}
	return out
}

const netBindOnly = "0000000000000400"

func TestPrivilegesAreDropped(t *testing.T) {
	p := start(t, socketIn(t), "no-such-user", nil)
	_, md := p.ready(t)
	pid := md.Get(meta.PID)[0]
	if want := fmt.Sprint(p.cmd.Process.Pid); pid != want {
		t.Errorf("pid told: %s, want %s: the process must keep its pid", pid, want)
	}
	if v := md.Get(meta.Version); len(v) != 1 || v[0] != "v-test" {
		t.Errorf("version told: %q", v)
	}
	got := procStatus(t, pid)
	for k, want := range map[string]string{
		"Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534", "Groups": "",
		"CapPrm": netBindOnly, "CapEff": netBindOnly, "CapInh": netBindOnly, "CapAmb": netBindOnly, "CapBnd": netBindOnly,
		"NoNewPrivs": "1",
	} {
		if got[k] != want {
			t.Errorf("%s: %q, want %q", k, got[k], want)
		}
	}
	cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil || !strings.HasSuffix(string(cmdline), "\x00-marker\x00argument\x00") {
		t.Errorf("arguments after re-execution: %q, %v", cmdline, err)
	}
	env, err := os.ReadFile("/proc/" + pid + "/environ")
	if err != nil || !strings.Contains(string(env), socketEnv) {
		t.Errorf("environment after re-execution: %v", err)
	}
	st, err := os.Stat(filepath.Dir(p.socket))
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); st.Mode().Perm() != 0o700 || sys.Uid != 65534 {
		t.Errorf("socket directory: mode %s, uid %d; want 0700 of uid 65534", st.Mode(), sys.Uid)
	}
}

func TestOneMappedUser(t *testing.T) {
	p := start(t, socketIn(t), "", nil, "unshare", "-Urnm")
	_, md := p.ready(t)
	got := procStatus(t, md.Get(meta.PID)[0])
	for k, want := range map[string]string{"CapPrm": netBindOnly, "CapEff": netBindOnly, "CapBnd": netBindOnly, "NoNewPrivs": "1"} {
		if got[k] != want {
			t.Errorf("%s: %q, want %q", k, got[k], want)
		}
	}
}

func TestRefusesToStayRoot(t *testing.T) {
	p := start(t, socketIn(t), "root", nil)
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.log.String(), "must not be") {
		t.Errorf("exit %d: %s", code, p.log)
	}
}

func TestSocketOwnership(t *testing.T) {
	socket := socketIn(t)
	first := start(t, socket, "", nil)
	c, _ := first.ready(t)

	second := start(t, socket, "", nil)
	<-second.done
	if second.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(second.log.String(), "another speaker serves "+socket) {
		t.Errorf("second speaker: %s", second.log)
	}
	if _, err := c.GetBgp(t.Context(), &api.GetBgpRequest{}); err != nil {
		t.Errorf("the first one after that: %v", err)
	}

	first.end(syscall.SIGKILL)
	if _, err := os.Lstat(socket); err != nil {
		t.Fatalf("a killed speaker leaves its socket: %v", err)
	}
	third := start(t, socket, "", nil)
	third.ready(t)
	if code := third.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code after SIGTERM: %d", code)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("socket after SIGTERM: %v", err)
	}
}

func TestSharedDirectoryRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hostfabric.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, filepath.Join(dir, "gobgp.sock"), "", nil)
	<-p.done
	if !strings.Contains(p.log.String(), "directory of its own") {
		t.Errorf("got %s", p.log)
	}
}

// What a speaker leaves behind is its own, whatever systemd makes of the directory's mode. Reports stay for the agent.
func TestCrashReportsInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"gobgp.sock.crash.1": "panic: x\n", "gobgp.sock.crash.2": "", "gobgp.sock.last-crash": "panic: y\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, filepath.Join(dir, "gobgp.sock"), "", nil)
	p.ready(t)
	for name, text := range files {
		if _, err := os.Stat(filepath.Join(dir, name)); os.IsNotExist(err) != (text == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLongPath(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), strings.Repeat("long/", 30), "gobgp.sock"), "", nil)
	eventually(t, 10*time.Second, func() error {
		if !strings.Contains(p.log.String(), "speaker ready") {
			return fmt.Errorf("not ready: %s", p.log)
		}
		_, err := os.Lstat(p.socket)
		return err
	})
}

func TestBusyInspectAddress(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	p := start(t, socketIn(t), "", []string{busy.Addr().String()})
	p.ready(t)
	eventually(t, 5*time.Second, func() error {
		if !strings.Contains(p.log.String(), "read-only API not available") {
			return fmt.Errorf("nothing logged: %s", p.log)
		}
		return nil
	})
	busy.Close()
	_, c := dial(t, busy.Addr().String())
	if _, err := c.GetBgp(t.Context(), &api.GetBgpRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("once the address is free: %v", err)
	}
}

// TestInspectionCannotWrite tries every method GoBGP's API has.
func TestInspectionCannotWrite(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inspect := lis.Addr().String()
	lis.Close()
	p := start(t, socketIn(t), "", []string{inspect})
	private, _ := p.ready(t)
	if _, err := private.SetLogLevel(t.Context(), &api.SetLogLevelRequest{}); err != nil {
		t.Errorf("writing through the private socket: %v", err)
	}
	cc, c := dial(t, inspect)
	if _, err := c.GetBgp(t.Context(), &api.GetBgpRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	allowed, refused := 0, 0
	check := func(name string, err error) {
		reads := strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Get") || name == "WatchEvent"
		denied := status.Code(err) == codes.PermissionDenied
		if reads == denied {
			t.Errorf("%s: %v", name, err)
		}
		if denied {
			refused++
		} else {
			allowed++
		}
	}
	desc := api.GobgpApi_ServiceDesc
	for _, m := range desc.Methods {
		err := cc.Invoke(t.Context(), "/"+desc.ServiceName+"/"+m.MethodName, &api.GetBgpRequest{}, &api.GetBgpResponse{})
		check(m.MethodName, err)
	}
	for _, m := range desc.Streams {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.ClientStreams}, "/"+desc.ServiceName+"/"+m.StreamName)
		if err != nil {
			t.Fatal(err)
		}
		s.SendMsg(&api.GetBgpRequest{}) // the answer tells
		s.CloseSend()
		check(m.StreamName, s.RecvMsg(&api.GetBgpResponse{}))
		cancel()
	}
	if err := cc.Invoke(t.Context(), "/other.Service/GetAll", &api.GetBgpRequest{}, &api.GetBgpResponse{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("unknown service: %v", err)
	}
	if allowed < 10 || refused < 30 {
		t.Errorf("%d methods allowed, %d refused: is that the whole API?", allowed, refused)
	}
}
