package endpoint

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openNetns opens the container's network namespace, and nothing else: the path comes from a container runtime, may lead
// anywhere, and elsewhere the next time. It is followed once; what is checked is what is used.
func (w *Wirer) openNetns(path string) (*os.File, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: namespace path is missing", ErrInvalid)
	}
	fd, err := openNamespace(path)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := w.checkNetns(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", path, err), f.Close())
	}
	return f, nil
}

// openNamespace opens what is a namespace of some kind. To open anything else could do something by itself, or wait for ever.
func openNamespace(path string) (fd int, err error) {
	place, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", ErrNotNetns, err)
	}
	defer unix.Close(place)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(place, &fs); err != nil {
		return -1, fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return -1, ErrNotNetns
	}
	if fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", place), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("open: %w", err)
	}
	return fd, nil
}

func (w *Wirer) checkNetns(fd int) error {
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
