// Package supervisor keeps a companion process running that outlives its starter: it finds one that already serves
// its unix socket, or starts it, and starts it again when it ends.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options describe the companion.
type Options struct {
	Name   string   // for logs
	Socket string   // unix socket it serves; whoever listens there is the companion
	Argv   []string // how to start it
	Log    *slog.Logger
}

// Backoff between starts: the first restart is at once, since forwarding state waits for it; a companion that keeps
// dying is started ever more slowly, but in much less than the time for which BGP peers keep our routes.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	stableFor  = 30 * time.Second // a companion that lived this long starts with a clean record
	startWait  = 15 * time.Second // for its socket to answer
	pollEvery  = 20 * time.Millisecond
)

// Run supervises until ctx ends, and leaves the companion running then.
func Run(ctx context.Context, opts Options) error {
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		if err := once(ctx, opts); err != nil && ctx.Err() == nil {
			opts.Log.Error("companion process ended or did not start", "process", opts.Name, "err", err, "restart_in", backoff)
		}
		if time.Since(began) > stableFor {
			backoff = 0
		}
		sleep(ctx, backoff)
		backoff = min(max(backoff*2, minBackoff), maxBackoff)
	}
	return nil
}

// once finds or starts the companion and returns when it has ended.
func once(ctx context.Context, opts Options) error {
	pid, err := ListenerPID(opts.Socket)
	if err == nil {
		opts.Log.Info("companion process found", "process", opts.Name, "pid", pid)
		return waitPID(ctx, pid)
	}
	cmd := exec.Command(opts.Argv[0], opts.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // files, not pipes: it goes on writing when we are gone
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", opts.Argv[0], err)
	}
	opts.Log.Info("companion process started", "process", opts.Name, "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // owned by the child: ends with it, or with this process
	if err := awaitSocket(ctx, opts.Socket, ended); err != nil {
		if !errors.Is(err, errEnded) && ctx.Err() == nil {
			return errors.Join(err, cmd.Process.Kill(), <-ended)
		}
		return err
	}
	select {
	case err := <-ended:
		return fmt.Errorf("%s ended: %w", opts.Name, errors.Join(err, errEnded))
	case <-ctx.Done():
		return nil
	}
}

var errEnded = errors.New("process is gone")

func awaitSocket(ctx context.Context, socket string, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if _, err := ListenerPID(socket); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return errors.Join(err, errEnded)
		case <-ctx.Done():
			return fmt.Errorf("socket %s does not answer within %s", socket, startWait)
		case <-tick.C:
		}
	}
}

// ListenerPID is the process that listens on a unix socket, by the kernel's word (SO_PEERCRED).
func ListenerPID(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Pid), nil
}

// waitPID returns when a process that is not our child has ended, or with ctx.
func waitPID(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	const slice = 200 // ms between looks at ctx
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, slice)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch process %d: %w", pid, err)
		}
		if n > 0 {
			return errEnded
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
