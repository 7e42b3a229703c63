package main

import (
	"fmt"
	"os"
)

// runsWhatIsOnDisk says whether a process executes the binary that is at the place of ours now. Such a one is as good as it gets,
// whatever its version: another one would be of the same. It is the agent that is old where the package was upgraded.
func runsWhatIsOnDisk(pid int) bool {
	exe, err := os.Executable()
	if err != nil {
		return false
	}
	ours, err := os.Stat(exe)
	if err != nil {
		return true // nothing could be started in its place
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && os.SameFile(ours, theirs)
}
