package private

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	defaultUser = "hostfabric"
	nobody      = 65534
)

// Options are what a process keeps when it gives up its privileges.
type Options struct {
	Process    string  // "speaker"; for messages
	Socket     string  // path of the private socket
	User       string  // whom to become when started as root; "": hostfabric. One that does not exist: uid 65534
	Capability uintptr // the only one to keep, if it is there
	DirFDEnv   string  // variable that hands the open directory to the re-executed process
	Log        *slog.Logger
}

func (o Options) kept() uint64 { return uint64(1) << o.Capability }

// account is whom the process becomes.
type account struct{ uid, gid int }

// Prepare opens the socket's directory and gives up privileges. It returns only in a process that has none left:
// otherwise it executes the binary anew and the new image comes here again.
func Prepare(opts Options) (*SocketDir, error) {
	have, err := capabilities()
	if err != nil {
		return nil, err
	}
	target, err := targetAccount(opts, have)
	if err != nil {
		return nil, err
	}
	fd, dropped := os.LookupEnv(opts.DirFDEnv)
	os.Unsetenv(opts.DirFDEnv)
	if have&^opts.kept() == 0 && target == nil {
		if dropped {
			return inheritSocketDir(opts, fd)
		}
		return openSocketDir(opts, nil)
	}
	if dropped {
		return nil, fmt.Errorf("privileges came back after they were dropped (uid %d, capabilities %#x)", os.Geteuid(), have)
	}
	dir, err := openSocketDir(opts, target)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	opts.Log.Debug("dropping privileges", "account", target, "capabilities", fmt.Sprintf("%#x", have))
	return nil, reexec(opts, dir, target)
}

// targetAccount returns whom to become, or nil to stay who we are: not root, not able to change (a container without
// CAP_SETUID), or in a user namespace that maps no such user (`unshare -r` maps one uid only).
func targetAccount(opts Options, have uint64) (*account, error) {
	const need = uint64(1)<<unix.CAP_SETUID | uint64(1)<<unix.CAP_SETGID
	if os.Geteuid() != 0 || have&need != need {
		return nil, nil
	}
	name := opts.User
	if name == "" {
		name = defaultUser
	}
	a := &account{uid: nobody, gid: nobody}
	if u, err := user.Lookup(name); err == nil {
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		a = &account{uid: uid, gid: gid}
	}
	if a.uid == 0 {
		return nil, fmt.Errorf("user %s is root: the %s parses what the network sends and must not be", name, opts.Process)
	}
	for file, id := range map[string]int{"/proc/self/uid_map": a.uid, "/proc/self/gid_map": a.gid} {
		ok, err := mapped(file, id)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, nil
		}
	}
	return a, nil
}

// mapped reports whether an id exists in our user namespace. Lines are "inside outside count".
func mapped(file string, id int) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, fmt.Errorf("read id map: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.ParseInt(fields[0], 10, 64)
		count, err2 := strconv.ParseInt(fields[2], 10, 64)
		if err1 == nil && err2 == nil && int64(id) >= first && int64(id) < first+count {
			return true, nil
		}
	}
	return false, sc.Err()
}

// capabilities returns the permitted set of the calling thread, which is that of all of them.
func capabilities() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}

// reexec changes the credentials of one thread and executes the binary from there: execve ends all other threads and
// the process has that thread's credentials. It returns only when something failed; the process is unusable then.
func reexec(opts Options, dir *SocketDir, target *account) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	fd := int(dir.file.Fd())
	env := append(os.Environ(), opts.DirFDEnv+"="+strconv.Itoa(fd))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: this thread's credentials differ from the others'
		if err := dropThread(opts, target); err != nil {
			done <- fmt.Errorf("drop privileges: %w", err)
			return
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			done <- fmt.Errorf("keep the socket's directory open: %w", err)
			return
		}
		err := syscall.Exec(exe, os.Args, env)
		if errors.Is(err, unix.EACCES) { // the path is closed to the user, the file itself may not be
			err = syscall.Exec("/proc/self/exe", os.Args, env)
		}
		done <- fmt.Errorf("execute %s as uid %d: %w", exe, unix.Geteuid(), err)
	}()
	return <-done
}

// dropThread leaves the calling thread with the kept capability at most and, unless target is nil, as that user.
func dropThread(opts Options, target *account) error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if uint64(1)<<c&opts.kept() != 0 {
			continue
		}
		// EINVAL: newer than the kernel. EPERM: no CAP_SETPCAP; no_new_privs below bounds execve as well.
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("bounding set: %w", err)
		}
	}
	if target != nil {
		if err := become(*target); err != nil {
			return err
		}
	}
	have, err := capabilities()
	if err != nil {
		return err
	}
	kept := uint32(have & opts.kept())
	keep := unix.CapUserData{Effective: kept, Permitted: kept, Inheritable: kept}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{keep}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if have&opts.kept() != 0 {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, opts.Capability, 0, 0); err != nil {
			return fmt.Errorf("ambient set: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// become changes the ids of this thread only: the raw calls, not the wrappers of package syscall, which change them
// on every thread of the process.
func become(a account) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("leave supplementary groups: %w", e)
	}
	gid, uid := uintptr(a.gid), uintptr(a.uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return fmt.Errorf("become gid %d: %w", a.gid, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return fmt.Errorf("become uid %d: %w", a.uid, e)
	}
	return nil
}
