package bfd

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	realTime     = 10  // of 99: above what is ordinary, below the kernel's own threads
	bestNiceness = -20 // what it takes where real time is not allowed
)

// raisePriority has the process run before ordinary ones, by as much as is allowed, and says by how much. It is for all
// threads, which those to come inherit: one in real time alone would at times wait for a lock of the Go scheduler
// whose holder an ordinary process keeps off the processor. (Seen: 178 ms on a busy machine.)
func raisePriority() string {
	realTimeErr := eachThread(func(tid int) error {
		return unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: realTime}, 0)
	})
	if realTimeErr == nil {
		return fmt.Sprintf("round robin, priority %d", realTime)
	}
	if err := eachThread(func(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, bestNiceness) }); err == nil {
		return fmt.Sprintf("nice %d (real time: %v)", bestNiceness, realTimeErr)
	}
	return fmt.Sprintf("ordinary (real time: %v); sessions with short intervals may fail on a busy host", realTimeErr)
}

// eachThread also reaches the threads that others start meanwhile.
func eachThread(do func(tid int) error) error {
	done := map[int]bool{}
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || done[tid] {
				continue
			}
			done[tid], again = true, true
			if err := do(tid); err != nil && err != unix.ESRCH { //nolint:errorlint // a bare Errno
				return err
			}
		}
	}
	return nil
}
