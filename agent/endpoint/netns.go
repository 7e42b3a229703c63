package endpoint

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openNetns opens the container's network namespace, and nothing else: the path comes from a container runtime.
// O_NONBLOCK keeps a FIFO from blocking the open.
func (w *Wirer) openNetns(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w: %w", path, ErrNotNetns, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := w.checkNetns(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", path, err), f.Close())
	}
	return f, nil
}

func (w *Wirer) checkNetns(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return ErrNotNetns
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return ErrNotNetns
	}
	var theirs, own unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &theirs), unix.Fstat(int(w.home.Fd()), &own)); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if theirs.Dev == own.Dev && theirs.Ino == own.Ino {
		return ErrHostNetns
	}
	return nil
}
