package endpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestPathThatLeadsAway has symbolic links where namespaces are named.
func TestPathThatLeadsAway(t *testing.T) {
	w, host := newWirer(t)
	box := nstest.New(t, "box")
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := links(t, host) + links(t, box)
	for name, c := range map[string]struct {
		to   string
		want error
	}{
		"the host's namespace": {host.Path(), endpoint.ErrHostNetns},
		"a mount namespace":    {"/proc/1/ns/mnt", endpoint.ErrNotNetns},
		"a file":               {file, endpoint.ErrNotNetns},
		"nothing":              {filepath.Join(dir, "nothing"), endpoint.ErrNotNetns},
		"itself":               {filepath.Join(dir, "itself"), endpoint.ErrNotNetns},
	} {
		link := filepath.Join(dir, "itself")
		if err := os.Symlink(c.to, link); err != nil {
			t.Fatal(err)
		}
		s := spec(box, "c1", "10.64.0.5")
		s.Netns = link
		if _, err := w.Wire(t.Context(), s); !errors.Is(err, c.want) {
			t.Errorf("a link to %s: %v, want %v", name, err, c.want)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if got := links(t, host) + links(t, box); got != before {
		t.Errorf("links left: %s", got)
	}
}

// TestNothingElseIsOpened: opening can do things by itself. A watchdog starts, a tape rewinds.
func TestNothingElseIsOpened(t *testing.T) {
	w, _ := newWirer(t)
	box := nstest.New(t, "box")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, file, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	s := spec(box, "c1", "10.64.0.5")
	s.Netns = file
	if _, err := w.Wire(t.Context(), s); !errors.Is(err, endpoint.ErrNotNetns) {
		t.Errorf("a file for a namespace: %v", err)
	}
	if n, err := unix.Read(watch, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the file was opened: %d bytes of events, %v", n, err)
	}
}

// TestPathThatChanges swaps what a path leads to while containers are wired by it. Each is wired into the container, or not at all.
func TestPathThatChanges(t *testing.T) {
	w, host := newWirer(t)
	box := nstest.New(t, "box")
	dir := t.TempDir()
	path, other := filepath.Join(dir, "path"), filepath.Join(dir, "other")
	if err := errors.Join(os.Symlink(box.Path(), path), os.Symlink(host.Path(), other)); err != nil {
		t.Fatal(err)
	}
	stop, swapped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				swapped <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
				swapped <- err
				return
			}
		}
	}()
	defer func() {
		close(stop)
		if err := <-swapped; err != nil {
			t.Error(err)
		}
	}()
	wired, refused := 0, 0
	for wired < 20 || refused < 20 {
		s := spec(box, "c1", "10.64.0.5")
		s.Netns = path
		_, err := w.Wire(t.Context(), s)
		if err != nil && !errors.Is(err, endpoint.ErrHostNetns) {
			t.Fatal(err)
		}
		if inHost, inBox := host.HasLink(s.ContainerLink), box.HasLink(s.ContainerLink); inHost || inBox != (err == nil) {
			t.Fatalf("wired: %v; the interface is in the host: %t, in the container: %t", err, inHost, inBox)
		}
		if err != nil {
			refused++
			continue
		}
		wired++
		ip(t, host, "link", "del", s.HostLink)
	}
}
