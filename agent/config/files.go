package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// files reads the files that the configuration names.
type files struct {
	dir    string // that relative names are in
	unread bool   // leave them alone, and their values empty
}

func (f files) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(f.dir, name)
}

// audience is who may be able to read a file.
type audience bool

const (
	private audience = false // owner and group
	anybody audience = true
)

// readRegular reads at most limit bytes of a regular file.
func readRegular(path string, who audience, limit int64) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &problem{path + " is not a regular file", ""}
	}
	if mode := info.Mode().Perm(); who == private && mode&0o007 != 0 {
		return nil, &problem{fmt.Sprintf("%s is open to everybody (mode %04o)", path, mode), "chmod 0600 " + path}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, unreadable(path, err)
	}
	return data, nil
}

func unreadable(path string, err error) error {
	return &problem{fmt.Sprintf("%s cannot be read: %v", path, reason(err)), ""}
}

// reason is what the kernel said, without the path that the message has already.
func reason(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
