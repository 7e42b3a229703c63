package bfd_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// newServer is a BFD process with a client and no routers.
func newServer(t *testing.T) *rig {
	t.Helper()
	r := &rig{host: nstest.New(t, "host")}
	r.prepare(t)
	r.start(t)
	r.connect(t)
	return r
}

// TestPrivileges looks at what is left of root.
func TestPrivileges(t *testing.T) {
	r := newServer(t)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?m)^Uid:\t65534\t65534\t65534\t65534$`, `(?m)^Gid:\t65534\t65534\t65534\t65534$`, `(?m)^Groups:\t\s*$`, `(?m)^NoNewPrivs:\t1$`,
		`(?m)^CapPrm:\t0000000000800000$`, `(?m)^CapEff:\t0000000000800000$`, // CAP_SYS_NICE
	} {
		if !regexp.MustCompile(want).Match(raw) {
			t.Errorf("no %s in\n%s", want, raw)
		}
	}
	if st, err := os.Stat(filepath.Dir(r.socket)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", st, err)
	}
	if !strings.Contains(r.log.String(), "round robin") {
		t.Errorf("not in real time:\n%s", r.log)
	}
}

// TestBrokenClients has clients send what is no request, too much, or nothing, and not read; the others must not notice.
func TestBrokenClients(t *testing.T) {
	r := newServer(t)
	dial := func() net.Conn {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for text, want := range map[string]string{
		"not JSON\n":               "decode",
		"{}\n":                     "knows no such request",
		`{"later":1}` + "\n":       "knows no such request",
		`{"set":[{}]}` + "\n":      "not the address of a neighbour",
		`{"set":"all"}` + "\n":     "decode",
		strings.Repeat("x", 1<<20): "token too long",
	} {
		conn := dial()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, `"error"`) || !strings.Contains(line, want) {
			t.Errorf("%.20q: %q, %v", text, line, err)
		}
	}
	deaf := dial()
	if _, err := deaf.Write([]byte(`{"watch":true}` + "\n")); err != nil {
		t.Fatal(err)
	}
	r.set(t, all(usual)...)
	for i := range 500 { // more changes than fit into a socket that nobody reads
		if err := r.client.AdminDown(t.Context(), i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	var idle []net.Conn
	for range 40 { // more than are served: some are refused
		idle = append(idle, dial())
	}
	for _, conn := range idle {
		conn.Close()
	}
	eventually(t, 5*time.Second, func() error {
		now, err := r.client.Refresh(t.Context())
		if err == nil && (len(now) != 6 || now[0].State != bfd.Down) {
			err = fmt.Errorf("%+v", now)
		}
		return err
	})
	if _, pid, ok := r.client.Connected(); !ok || pid != r.cmd.Process.Pid {
		t.Errorf("connected to %d, %t", pid, ok)
	}
}

// TestReapply: what was wanted before the connection, and of a process that is gone, is wanted of the next one.
func TestReapply(t *testing.T) {
	r := newServer(t)
	r.set(t, all(usual)...)
	if err := r.client.AdminDown(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	r.cmd.Process.Kill()
	<-r.ended
	eventually(t, 5*time.Second, func() error {
		if _, _, ok := r.client.Connected(); ok {
			return fmt.Errorf("connected to nobody")
		}
		return nil
	})
	if _, err := r.client.Refresh(t.Context()); err == nil {
		t.Error("status of nobody")
	}
	r.set(t, all(usual)[:2]...)
	if err := r.client.Set(t.Context(), []bfd.Session{{}}); err == nil {
		t.Error("an invalid session is recorded")
	}
	r.start(t)
	r.awaitVersion(t, "v1")
	eventually(t, 5*time.Second, func() error {
		got := r.client.Status()
		if len(got) != 2 || got[0].State != bfd.AdminDown || got[1].State != bfd.AdminDown {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if !strings.Contains(r.client.Status()[0].Error, "interface tor1 does not exist") {
		t.Errorf("%+v", r.client.Status()[0])
	}
}

// TestOneServer: a second process on the same socket is refused and disturbs nothing.
func TestOneServer(t *testing.T) {
	r := newServer(t)
	first := r.cmd.Process.Pid
	r.start(t)
	<-r.ended
	if r.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(r.log.String(), "another bfd process serves") {
		t.Errorf("%v\n%s", r.cmd.ProcessState, r.log)
	}
	if _, pid, ok := r.client.Connected(); !ok || pid != first {
		t.Errorf("connected to %d, %t", pid, ok)
	}
	if err := bfd.Serve(context.Background(), bfd.ServerOptions{}); err == nil {
		t.Error("no socket, and no error")
	}
}
