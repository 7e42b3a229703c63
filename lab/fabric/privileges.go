package fabric

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stageEnv is in the environment of a process that EnsurePrivileges started, and says what is left to do there.
const stageEnv = "HOSTFABRIC_LAB_STAGE"

// EnsurePrivileges makes sure that this process can build a lab. Real root can. Anybody else gets namespaces where they
// are root, with a /run of their own, if the kernel allows it: the program is run again there, and this process only waits
// and exits with its code. A user's later runs join the namespaces of a lab that stands. To be called before anything else.
func EnsurePrivileges() error {
	if _, inside := os.LookupEnv(stageEnv); inside {
		_ = os.Unsetenv(stageEnv) // for our children; the name is valid
		return settleIn()
	}
	if !canUnshare() {
		if pid, ok := standingLab(); ok {
			return join(pid, "--user", "--preserve-credentials")
		}
		if err := again(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET); err != nil {
			return fmt.Errorf("labs are made of network namespaces, and this kernel refuses them to user %d: %w (run as root, or allow unprivileged user namespaces)", os.Geteuid(), err)
		}
	}
	if unix.Access("/run", unix.W_OK) == nil {
		return nil
	}
	// Root of a user namespace that has no say over the real /run. `unshare -Urnm` gave us mounts of our own, to change...
	if err := privateRun(); !errors.Is(err, unix.EPERM) {
		return err
	}
	// ...and `unshare -Urn` did not.
	if pid, ok := standingLab(); ok {
		return join(pid)
	}
	return again(syscall.CLONE_NEWNS)
}

// canUnshare reports whether network and mount namespaces can be had here as we are.
func canUnshare() bool {
	ok := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ok <- unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS) == nil
	}()
	return <-ok
}

// again runs this program once more in new namespaces, passes signals on to it, and exits with its code. It returns only if
// that fails.
func again(namespaces uintptr) error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if namespaces&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run in namespaces of our own: %w", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended this moment
		case err := <-ended:
			if ee := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ee) {
				return fmt.Errorf("run in namespaces of our own: %w", err)
			}
			os.Exit(exitCode(cmd.ProcessState))
		}
	}
}

// exitCode is a process's code, or that which shells give one that a signal ended.
func exitCode(s *os.ProcessState) int {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return s.ExitCode()
}

// settleIn furnishes new namespaces.
func settleIn() error {
	if unix.Access("/run", unix.W_OK) != nil {
		if err := privateRun(); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil && !errors.Is(err, unix.EPERM) { // refused where the network namespace is not ours, and is in use already
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// privateRun covers /run with an empty one, for our mount namespace only.
func privateRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mounts from the machine's: %w", err)
	}
	if err := unix.Mount("hostfabric-lab", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a private /run: %w", err)
	}
	return nil
}

// standingLab finds a process of a lab that this user has built in other mounts than ours.
func standingLab() (pid int, ok bool) {
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return 0, false
	}
	procs, err := daemon.Find(func(proc string) bool {
		there, err := os.Readlink(proc + "/ns/mnt")
		if err != nil || there == here {
			return false
		}
		env, err := os.ReadFile(proc + "/environ")
		return err == nil && strings.Contains("\x00"+string(env), "\x00"+markEnv+"=")
	})
	if err != nil || len(procs) == 0 {
		return 0, false
	}
	return procs[0].PID, true
}

// join becomes this program in the mounts (and what else is told) of a process. It returns only if that fails.
func join(pid int, more ...string) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("enter the namespaces of your running lab: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("enter the namespaces of your running lab: %w", err)
	}
	wd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("enter the namespaces of your running lab: %w", err)
	}
	args := append([]string{nsenter, fmt.Sprintf("--target=%d", pid), "--mount", "--wd=" + wd}, more...)
	args = append(args, "--", "unshare", "--net", "--", self)
	env := append(os.Environ(), stageEnv+"=1")
	return fmt.Errorf("enter the namespaces of your running lab: %w", syscall.Exec(nsenter, append(args, os.Args[1:]...), env))
}
