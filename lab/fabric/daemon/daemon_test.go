package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func TestParseStat(t *testing.T) {
	tail := " 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 100 5"
	tests := []struct {
		name, raw string
		want      Process
		err       error
	}{
		{"plain", "7 (bird) S" + tail, Process{7, 4242, "bird"}, nil},
		{"parentheses in the name", "7 (a) S (b) R" + tail, Process{7, 4242, "a) S (b"}, nil},
		{"zombie", "7 (bird) Z" + tail, Process{}, errGone},
		{"zombie leader of live threads", "7 (bird) Z" + strings.Replace(tail, " 20 0 1 0 ", " 20 0 2 0 ", 1), Process{7, 4242, "bird"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat(7, []byte(tt.raw))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
	for _, raw := range []string{"", "7 bird S", "7 (bird) S 1 2", ")(", "7 (bird) S" + strings.Replace(tail, "4242", "x", 1)} {
		if _, err := parseStat(7, []byte(raw)); err == nil {
			t.Errorf("parseStat(%q): no error", raw)
		}
	}
}

func startSleep(t *testing.T, env ...string) Process {
	t.Helper()
	p, err := Start(Spec{Name: "sleeper", Dir: t.TempDir(), NS: nstest.New(t, "a"), Path: "/bin/sleep", Args: []string{"300"}, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestFindAndStop(t *testing.T) {
	ns := nstest.New(t, "a")
	dir := t.TempDir()
	p, err := Start(Spec{Name: "stubborn", Dir: dir, NS: ns, Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; echo up; while :; do sleep 300; done"}, Env: []string{"LABTEST=" + ns.Name}})
	if err != nil {
		t.Fatal(err)
	}
	if loaded, err := Load(dir, "stubborn"); err != nil || loaded != p {
		t.Errorf("Load = %+v, %v; want %+v", loaded, err, p)
	}
	deadline := time.Now().Add(5 * time.Second)
	for Tail(dir+"/stubborn.log", 1) != "up" {
		if time.Now().After(deadline) {
			t.Fatal("the process printed nothing")
		}
	}
	for name, match := range map[string]func(string) bool{"namespace": InNamespace([]string{ns.Path()}), "environment": WithEnv("LABTEST=" + ns.Name)} {
		found, err := Find(match)
		if err != nil || len(found) == 0 {
			t.Fatalf("by %s: found %v, %v", name, found, err)
		}
		if found[0].PID != p.PID || found[0].Started != p.Started {
			t.Errorf("by %s: found %+v, want %+v", name, found[0], p)
		}
	}
	find := func() ([]Process, error) { return Find(InNamespace([]string{ns.Path()})) }
	if err := End(context.Background(), find, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("the process ignores SIGTERM and was not killed")
	}
}

// A record whose process identifier now belongs to somebody else must hurt nobody.
func TestSignalSparesRecycledPID(t *testing.T) {
	p := startSleep(t)
	stale := p
	stale.Started--
	if stale.Alive() {
		t.Error("a process of another start time counts as alive")
	}
	if err := stale.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if !p.Alive() {
		t.Error("the process was killed by the record of another")
	}
}

func TestStopHonoursContext(t *testing.T) {
	p := startSleep(t)
	if err := p.Signal(syscall.SIGSTOP); err != nil { // once it has stopped, SIGTERM stays pending
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), ") T ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process has not stopped: %s", raw)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if err := Stop(ctx, []Process{p}, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want deadline exceeded", err)
	}
}

func TestStartFails(t *testing.T) {
	ns := nstest.New(t, "a")
	if _, err := Start(Spec{Name: "x", Dir: t.TempDir(), NS: ns, Path: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err = %v, want not exist", err)
	}
	if _, err := Start(Spec{Name: "x", Dir: "/nonexistent", NS: ns, Path: "/bin/true"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err = %v, want not exist", err)
	}
}
