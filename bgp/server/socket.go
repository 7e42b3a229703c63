package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// socketDir is the open directory of the private socket. Everything in it is reached through the descriptor: after
// the privileges are gone the speaker may be unable to walk the path, and the path may be longer than the 107 bytes
// a unix socket address holds.
type socketDir struct {
	file *os.File
	path string
	base string // name of the socket
}

// dirFDEnv hands the descriptor to the re-executed process, and tells it that privileges were dropped once.
const dirFDEnv = "HOSTFABRIC_SPEAKER_DIR_FD"

// openSocketDir opens the directory, making it if needed: mode 0700, owned by the given user where that can be set.
func openSocketDir(socket string, owner *account) (*socketDir, error) {
	path, base := filepath.Split(filepath.Clean(socket))
	if path == "" {
		path = "."
	}
	if strings.Contains(base, ",") {
		return nil, fmt.Errorf("socket name %q: a comma separates addresses for GoBGP; use another name", base)
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
	d := &socketDir{file: f, path: path, base: base}
	if err := d.secure(owner); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// inheritSocketDir takes over the descriptor of the process before it dropped its privileges.
func inheritSocketDir(socket, fd string) (*socketDir, error) {
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("%s=%q is not a descriptor", dirFDEnv, fd)
	}
	unix.CloseOnExec(n)
	path, base := filepath.Split(filepath.Clean(socket))
	f := os.NewFile(uintptr(n), path)
	if st, err := f.Stat(); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("%s=%q is not the socket's directory", dirFDEnv, fd)
	}
	return &socketDir{file: f, path: path, base: base}, nil
}

// secure closes the directory to others. One that holds more than the speaker's own files is not ours to change.
func (d *socketDir) secure(owner *account) error {
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
			if n != d.base && n != d.base+lockSuffix {
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

func (d *socketDir) at(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.file.Fd(), name)
}

func (d *socketDir) socketPath() string { return d.at(d.base) }

// claim takes the socket's name for this process: a lock tells a live speaker from one that was killed, whose
// socket file is then removed. The lock goes with the process.
func (d *socketDir) claim() (release func(), err error) {
	lock, err := os.OpenFile(d.at(d.base+lockSuffix), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s%s%s: %w", d.path, d.base, lockSuffix, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another speaker serves %s%s: stop it first, or give this one another socket", d.path, d.base)
		}
		return nil, fmt.Errorf("lock %s%s%s: %w", d.path, d.base, lockSuffix, err)
	}
	if err := os.Remove(d.socketPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("remove the stale socket %s%s: %w", d.path, d.base, err)
	}
	return func() {
		os.Remove(d.socketPath()) // before the lock goes: afterwards it may be a successor's
		lock.Close()
	}, nil
}

func (d *socketDir) Close() { d.file.Close() }
