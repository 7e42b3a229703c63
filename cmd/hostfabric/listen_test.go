package main

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// shortDir is a directory whose path leaves room in a unix socket's address, which t.TempDir's does not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestListenUnix(t *testing.T) {
	for _, before := range []string{"nothing", "a stale socket", "a file", "a socket left half-made"} {
		t.Run("over "+before, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "run", "api.sock")
			if before != "nothing" {
				if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			switch before {
			case "a stale socket":
				leaveSocket(t, path)
			case "a file":
				if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			case "a socket left half-made":
				leaveSocket(t, path+".new")
			}
			const mode = 0o660
			gid := os.Getgid()
			if os.Geteuid() == 0 {
				gid = 12345
			}
			l, err := listenUnix(path, mode, gid)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			checkSocket(t, path, mode, gid)
			if _, err := os.Lstat(path + ".new"); err == nil {
				t.Error("its first name is still there")
			}
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()

			if second, err := listenUnix(path, mode, gid); err == nil {
				second.Close()
				t.Error("a second listener takes the socket of a live one")
			} else if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another agent serves it") {
				t.Errorf("a second listener is told %v", err)
			}
			if c, err = net.Dial("unix", path); err != nil {
				t.Fatalf("the refused one broke the first: %v", err)
			}
			c.Close()
		})
	}
}

func TestListenUnixRefused(t *testing.T) {
	dir := shortDir(t)
	occupied := filepath.Join(dir, "occupied")
	if err := os.MkdirAll(filepath.Join(occupied, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"path too long": filepath.Join(dir, strings.Repeat("x", 120)),
		"a directory":   occupied,
		"below a file":  filepath.Join(writeConfig(t, goodConfig), "api.sock"),
	} {
		if l, err := listenUnix(path, 0o600, -1); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names %s", name, err, path)
			if l != nil {
				l.Close()
			}
		}
	}
}

// leaveSocket leaves what a killed process leaves.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

func checkSocket(t *testing.T, path string, mode fs.FileMode, gid int) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|mode {
		t.Errorf("mode is %v, want %v", info.Mode(), fs.ModeSocket|mode)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Gid) != gid {
		t.Errorf("group is not %d: %+v", gid, info.Sys())
	}
}
