package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// listenUnix listens on a unix socket with the given mode and group. A socket that nobody answers on is a crashed
// predecessor's and is replaced; one that somebody answers on is an error.
func listenUnix(path string, mode fs.FileMode, gid int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another agent serves it: stop that one, or set another run_dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: remove the stale one: %w", path, err)
	}
	// Bound under a name of its own first, so that nobody can connect before the mode is set.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", fresh, err)
	}
	l, err := net.Listen("unix", fresh)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = errors.Join(os.Chown(fresh, -1, gid), os.Chmod(fresh, mode), os.Rename(fresh, path))
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

// groupID finds the API's group. Without it the socket is root's alone.
func groupID(name string, log *slog.Logger) int {
	g, err := user.LookupGroup(name)
	if err != nil {
		log.Warn("API socket is for root alone: group not found, create it with `groupadd --system "+name+"`", "group", name)
		return -1
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return gid
}
