package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play the companion: it serves the socket until it is ended.
func TestMain(m *testing.M) {
	if socket := os.Getenv("SUPERVISOR_TEST_SOCKET"); socket != "" {
		companion(socket)
		return
	}
	goleak.VerifyTestMain(m)
}

func companion(socket string) {
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
}

func options(t *testing.T) Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	t.Setenv("SUPERVISOR_TEST_SOCKET", socket)
	return Options{Name: "companion", Socket: socket, Argv: []string{exe}, Log: slog.New(slog.DiscardHandler)}
}

// run supervises until stop, which returns once Run has.
func run(t *testing.T, opts Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, opts) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// awaitPID waits for a listener other than not.
func awaitPID(t *testing.T, socket string, not int) int {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if pid, err := ListenerPID(socket); err == nil && pid != not {
			return pid
		}
		select {
		case <-deadline:
			t.Fatalf("no companion other than %d on %s", not, socket)
		case <-tick.C:
		}
	}
}

func end(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

func TestCompanionIsStartedAgainAndOutlivesItsSupervisor(t *testing.T) {
	opts := options(t)
	stop := run(t, opts)
	first := awaitPID(t, opts.Socket, 0)
	end(t, first)
	second := awaitPID(t, opts.Socket, first)
	stop()
	if pid := awaitPID(t, opts.Socket, 0); pid != second {
		t.Fatalf("companion %d did not outlive its supervisor: %d answers", second, pid)
	}

	stop = run(t, opts)
	defer stop()
	// The next supervisor adopts it: when it is killed, and only then, there is another.
	end(t, second)
	third := awaitPID(t, opts.Socket, second)
	t.Cleanup(func() { end(t, third) })
}

func TestCompanionThatCannotStartIsReportedAndRetried(t *testing.T) {
	opts := options(t)
	opts.Argv = []string{"/nonexistent/companion"}
	if err := once(t.Context(), opts); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("once: %v, want not found", err)
	}
	opts.Argv = []string{"/bin/true"}
	if err := once(t.Context(), opts); !errors.Is(err, errEnded) {
		t.Fatalf("once: %v, want ended", err)
	}
}
