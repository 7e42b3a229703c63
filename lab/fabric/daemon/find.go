package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Find returns all processes but the caller for which match, given the path of their folder in /proc, holds.
func Find(match func(proc string) bool) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !match("/proc/"+e.Name()) {
			continue
		}
		if p, err := read(pid); err == nil {
			found = append(found, p)
		}
	}
	return found, nil
}

// InNamespace matches processes whose network namespace is one of those bound to the paths.
func InNamespace(paths []string) func(proc string) bool {
	bound := make(map[nsID]bool, len(paths))
	for _, p := range paths {
		if id, ok := namespace(p); ok {
			bound[id] = true
		}
	}
	return func(proc string) bool {
		id, ok := namespace(proc + "/ns/net")
		return ok && bound[id]
	}
}

type nsID struct{ dev, ino uint64 }

func namespace(path string) (nsID, bool) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return nsID{}, false
	}
	return nsID{st.Dev, st.Ino}, true
}

// WithEnv matches processes that were started with the variable, "NAME=value", in their environment.
func WithEnv(variable string) func(proc string) bool {
	entry := []byte(variable)
	return func(proc string) bool {
		raw, err := os.ReadFile(proc + "/environ")
		if err != nil {
			return false
		}
		for kv := range bytes.SplitSeq(raw, []byte{0}) {
			if bytes.Equal(kv, entry) {
				return true
			}
		}
		return false
	}
}

// End ends every process that find returns, also those that appear meanwhile: SIGTERM first, SIGKILL after the grace time.
// It is content when two searches in a row find nothing, because a process in the middle of execve(2) escapes one.
func End(ctx context.Context, find func() ([]Process, error), grace time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	asked := map[Process]syscall.Signal{}
	empty := 0 // searches in a row that found nothing
	for {
		procs, err := find()
		if err != nil {
			return err
		}
		if len(procs) > 0 {
			empty = 0
		} else if empty++; empty == 2 {
			return nil
		}
		sig := syscall.SIGTERM
		if time.Since(begin) >= grace {
			sig = syscall.SIGKILL
		}
		if len(procs) > 0 && time.Since(begin) > grace+5*time.Second {
			return fmt.Errorf("%d processes survive SIGKILL, the first is %s (%d)", len(procs), procs[0].Command, procs[0].PID)
		}
		var errs []error
		for _, p := range procs {
			if asked[p] != sig {
				asked[p] = sig
				errs = append(errs, p.Signal(sig))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end %d processes: %w", len(procs), ctx.Err())
		case <-tick.C:
		}
	}
}

// Stop ends the given processes as End does.
func Stop(ctx context.Context, procs []Process, grace time.Duration) error {
	return End(ctx, func() ([]Process, error) {
		var alive []Process
		for _, p := range procs {
			if p.Alive() {
				alive = append(alive, p)
			}
		}
		return alive, nil
	}, grace)
}
