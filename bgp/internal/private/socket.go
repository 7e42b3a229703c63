// Package private is what the processes that parse the network's bytes have in common: they give up their privileges and
// serve a unix socket in a directory of their own.
package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// SocketDir is the open directory of the private socket. Everything in it is reached through the descriptor: after
// the privileges are gone the process may be unable to walk the path, and the path may be longer than the 107 bytes
// a unix socket address holds.
type SocketDir struct {
	file *os.File
	path string
	base string // name of the socket

	process string
	lock    *os.File // held while the socket's name is ours
}

// openSocketDir opens the directory, making it if needed: mode 0700, owned by the given user where that can be set.
func openSocketDir(opts Options, owner *account) (*SocketDir, error) {
	path, base := filepath.Split(filepath.Clean(opts.Socket))
	if path == "" {
		path = "."
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(path)), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the socket's directory: %w", err)
	}
	d := &SocketDir{file: f, path: path, base: base, process: opts.Process}
	if err := d.secure(owner); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// inheritSocketDir takes over the descriptor of the process before it dropped its privileges.
func inheritSocketDir(opts Options, fd string) (*SocketDir, error) {
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("%s=%q is not a descriptor", opts.DirFDEnv, fd)
	}
	unix.CloseOnExec(n)
	path, base := filepath.Split(filepath.Clean(opts.Socket))
	f := os.NewFile(uintptr(n), path)
	if st, err := f.Stat(); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("%s=%q is not the socket's directory", opts.DirFDEnv, fd)
	}
	return &SocketDir{file: f, path: path, base: base, process: opts.Process}, nil
}

// secure closes the directory to others. One that holds more than the speaker's own files is not ours to change.
func (d *SocketDir) secure(owner *account) error {
	st, err := d.file.Stat()
	if err != nil {
		return fmt.Errorf("inspect the socket's directory: %w", err)
	}
	if st.Mode().Perm()&0o007 != 0 {
		names, err := d.file.Readdirnames(-1)
		if err != nil {
			return fmt.Errorf("read the socket's directory: %w", err)
		}
		for _, n := range names {
			if _, crash := meta.CrashPID(d.base, n); !crash && n != d.base && n != d.base+lockSuffix && n != meta.LastCrash(d.base) {
				return fmt.Errorf("directory %s of the private socket is open to everybody and holds other files (%s): "+
					"give the socket a directory of its own, mode 0700", d.path, n)
			}
		}
		if err := d.file.Chmod(0o700); err != nil {
			return fmt.Errorf("close the socket's directory to others: %w", err)
		}
	}
	if owner == nil {
		return nil
	}
	for _, n := range []string{d.base + lockSuffix, "."} {
		err := unix.Fchownat(int(d.file.Fd()), n, owner.uid, owner.gid, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("give the socket's directory to uid %d: %w", owner.uid, err)
		}
	}
	return nil
}

const lockSuffix = ".lock"

// At is a path of a file in the directory, through its descriptor.
func (d *SocketDir) At(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.file.Fd(), name)
}

// Base is the name of the socket in the directory.
func (d *SocketDir) Base() string { return d.base }

// SocketPath is a path of the socket that is short enough for an address.
func (d *SocketDir) SocketPath() string { return d.At(d.base) }

// Claim takes the socket's name for this process: a lock tells a live process from one that was killed, whose
// socket file is then removed. The lock goes with the process.
func (d *SocketDir) Claim() (release func(), err error) {
	lock, err := os.OpenFile(d.At(d.base+lockSuffix), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s%s%s: %w", d.path, d.base, lockSuffix, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another %s serves %s%s: stop it first, or give this one another socket", d.process, d.path, d.base)
		}
		return nil, fmt.Errorf("lock %s%s%s: %w", d.path, d.base, lockSuffix, err)
	}
	if err := os.Remove(d.SocketPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("remove the stale socket %s%s: %w", d.path, d.base, err)
	}
	d.lock = lock
	return d.release, nil
}

func (d *SocketDir) release() {
	os.Remove(d.SocketPath()) // before the lock goes: afterwards it may be a successor's
	d.lock.Close()
}

// Descriptors are the directory's and, of a socket that was claimed, the lock's: what the next image of this process needs,
// the former through Options.DirFDEnv and the latter through Adopt.
func (d *SocketDir) Descriptors() (dir, lock int) { return int(d.file.Fd()), int(d.lock.Fd()) }

// Adopt is Claim in a process whose former image has claimed the socket.
func (d *SocketDir) Adopt(lock int) (release func()) {
	unix.CloseOnExec(lock)
	d.lock = os.NewFile(uintptr(lock), d.base+lockSuffix)
	return d.release
}

// Close leaves a claimed socket alone.
func (d *SocketDir) Close() { d.file.Close() }
