package rtnl

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Within runs fn on the calling goroutine's thread inside the network namespace that fd refers to, and brings the
// thread back. Goroutines fn starts are outside it. A thread that cannot be brought back is not reused; the library's
// functions that end in At would go on with it.
func Within(fd int, fn func() error) error {
	runtime.LockOSThread()
	home, err := ThreadNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// Still locked: the runtime ends the thread with the goroutine.
		return fmt.Errorf("return to network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return err
}

// ThreadNamespace opens the calling thread's network namespace.
func ThreadNamespace() (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return nil, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	return f, nil
}
