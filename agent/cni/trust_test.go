package cni_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

func TestServerSurvivesWhatIsNoRequest(t *testing.T) {
	h := newHost(t)
	h.serve(t, newFabric())
	send := func(data string) string {
		c, err := net.Dial("unix", h.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		r, err := relay.ReadResponse(c)
		if err != nil || !r.Failed {
			t.Errorf("%q: answer %+v, %v", data, r, err)
		}
		return string(r.Stdout)
	}
	for data, want := range map[string]string{
		"":                                "EOF",
		"GET / HTTP/1.1\r\n\r\n":          "not the CNI relay protocol",
		"HFCN\x02\x00\x00\x00\x00\x00":    "of one release",
		"HFCN\x01\x00\xff\xff\xff\xff":    "more than",
		"HFCN\x01\x00\x00\x00\x00\x05abc": "EOF",
	} {
		if got := send(data); !strings.Contains(got, want) || !strings.Contains(got, `"code":6`) {
			t.Errorf("%q: got %s, want %q", data, got, want)
		}
	}
	bad, err := (&relay.Request{Command: "FORMAT", Config: []byte("{}"), Patience: time.Second}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := send(string(bad)); !strings.Contains(got, `"code":4`) {
		t.Errorf("unknown command: %s", got)
	}
	version, err := (&relay.Request{Command: relay.Add, ContainerID: "../../x", IfName: "eth0", Netns: "/x", Config: []byte("{}"), Patience: time.Second}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := send(string(version)); !strings.Contains(got, "CNI_CONTAINERID") {
		t.Errorf("path as a container: %s", got)
	}
	shim(t, []string{"CNI_COMMAND=STATUS"}, h.conf(nil)).wantOK(t)
}

const nobody = 65534

func asNobody(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func TestOnlyRootIsServed(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	// As open as it could be by mistake.
	for _, path := range []string{filepath.Dir(h.socket), h.socket} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), shimPath)
	cmd.Env, cmd.Stdin = env("ADD", "c1"), strings.NewReader(h.conf(nil))
	asNobody(cmd)
	run(t, cmd).wantError(t, 5, "user 65534 is not root")
	if f.count() > 0 {
		t.Error("attached for nobody")
	}
}

func TestShimTrustsOnlyRootsAgent(t *testing.T) {
	h := newHost(t)
	if err := os.Chmod(filepath.Dir(h.socket), 0o777); err != nil {
		t.Fatal(err)
	}
	// A copy of this test binary that nobody may execute.
	exe := filepath.Join(filepath.Dir(h.socket), "listener")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = []string{listenEnv + "=" + h.socket}
	asNobody(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Errorf("listener: %q, %v", line, err)
	}
	shim(t, env("ADD", "c1"), h.conf(nil)).wantError(t, 5, "belongs to user 65534")
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
