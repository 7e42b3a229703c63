package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Mounts are namespaces bound to files of a directory, as `ip netns` binds its own to /run/netns: they live until they are unmounted,
// whoever ends.
//
// Container runtimes must see them. A systemd unit with a file system of its own (ProtectSystem and the like) has a mount
// namespace that what is mounted in does not come out of, so it is the host's, that of process 1, that they are mounted in. Where the
// directory is another one there, the agent is itself in a container or a test, and its own mount namespace is meant.
type Mounts struct {
	dir  string
	host *os.File // the host's mount namespace; nil: the agent's own
}

// NewMounts makes the directory if there is none.
func NewMounts(dir string) (*Mounts, error) { return newMounts(dir, "/proc/1") }

// newMounts is NewMounts with the host's process 1.
func newMounts(dir, init string) (*Mounts, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("directory of sandboxes: %w", err)
	}
	m := &Mounts{dir: dir}
	if !same(dir, filepath.Join(init, "root", dir)) {
		return m, nil
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("own mount namespace: %w", err)
	}
	if inits, err := os.Readlink(init + "/ns/mnt"); err != nil || inits == own {
		return m, nil // without the right to look there is none to enter
	}
	if m.host, err = os.Open(init + "/ns/mnt"); err != nil {
		return nil, fmt.Errorf("mount namespace of the host: %w", err)
	}
	return m, nil
}

// same reports whether two paths lead to one file.
func same(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// Close releases what NewMounts opened. The namespaces stay.
func (m *Mounts) Close() error {
	if m.host == nil {
		return nil
	}
	return m.host.Close()
}

// Path implements Namespaces.
func (m *Mounts) Path(id string) string { return filepath.Join(m.dir, id) }

// Create implements Namespaces.
func (m *Mounts) Create(id string) error {
	path := m.Path(id)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		if err := m.enter(); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind network namespace: %w", err)
		}
		return nil
	})
	if err == nil {
		err = isNamespace(path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create sandbox %s: %w", path, err), m.Remove(id))
	}
	return nil
}

// isNamespace reports what is wrong if the agent does not see what it has just mounted.
func isNamespace(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return errors.New("mounted for the host, but not seen by the agent: its mount namespace is private, let it be a slave of the host's")
	}
	return nil
}

// Remove implements Namespaces. The kernel destroys the namespace once no process lives in it.
func (m *Mounts) Remove(id string) error {
	path := m.Path(id)
	err := onThread(func() error {
		if err := m.enter(); err != nil {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount: %w", err)
		}
		return nil
	})
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sandbox %s: %w", path, err)
	}
	return nil
}

// List implements Namespaces.
func (m *Mounts) List() ([]string, error) {
	files, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("directory of sandboxes: %w", err)
	}
	var ids []string
	for _, f := range files {
		if validID(f.Name()) {
			ids = append(ids, f.Name())
		}
	}
	return ids, nil
}

// enter brings the calling thread, which must not be used for anything else, into the mount namespace to mount in.
func (m *Mounts) enter() error {
	if m.host == nil {
		return nil
	}
	// A thread shares its root and working directory with the others, which keeps it from changing its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("a file system of the thread's own: %w", err)
	}
	if err := unix.Setns(int(m.host.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the host's mount namespace: %w; a systemd unit needs the drop-in for sandboxes (CAP_SYS_CHROOT, RestrictNamespaces=mnt)", err)
	}
	return nil
}

// onThread runs fn on a thread of its own, which ends with it: what fn does to the thread's namespaces is never undone.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- fn()
	}()
	return <-done
}

// loopbackUp takes lo up in the calling thread's network namespace, which also gives it its addresses.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
