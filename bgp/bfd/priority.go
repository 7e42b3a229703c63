package bfd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	realTime     = 10  // of 99: above what is ordinary, below the kernel's own threads
	bestNiceness = -20 // what it takes where real time is not allowed
)

// raisePriority has the calling thread run before ordinary ones, by as much as is allowed, and says by how much. Threads
// it makes are ordinary.
func raisePriority() string {
	err := unix.SchedSetAttr(0, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: realTime, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
	if err == nil {
		return fmt.Sprintf("round robin, priority %d", realTime)
	}
	if niceErr := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), bestNiceness); niceErr == nil {
		return fmt.Sprintf("nice %d (real time: %v)", bestNiceness, err)
	}
	return fmt.Sprintf("ordinary (real time: %v); sessions with short intervals may fail on a busy host", err)
}
