package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

const id = "sandbox-0123456789abcdef"

// TestMounts makes real namespaces; it needs root.
func TestMounts(t *testing.T) {
	nstest.RequireRoot(t)
	m, err := NewMounts(filepath.Join(t.TempDir(), "sandboxes"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Create(id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Remove(id) })
	if err := isNamespace(m.Path(id)); err != nil {
		t.Error(err)
	}
	if err := m.Create(id); err == nil {
		t.Error("a taken ID was given again")
	}
	if err := isNamespace(m.Path(id)); err != nil {
		t.Errorf("after a refused Create: %v", err)
	}
	out, err := exec.Command("nsenter", "--net="+m.Path(id), "ip", "-br", "address").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "127.0.0.1") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("inside: %v\n%s", err, out)
	}
	if got, err := m.List(); err != nil || len(got) != 1 || got[0] != id {
		t.Errorf("List = %v, %v", got, err)
	}
	for range 2 {
		if err := m.Remove(id); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(m.Path(id)); !os.IsNotExist(err) {
		t.Errorf("after Remove: %v", err)
	}
}

// TestMountsAreSeenByTheHost runs itself in a mount namespace that is a slave of the host's, as a systemd unit with ProtectSystem has.
func TestMountsAreSeenByTheHost(t *testing.T) {
	nstest.RequireRoot(t)
	const place = "HOSTFABRIC_TEST_SANDBOXES"
	if dir := os.Getenv(place); dir != "" {
		m, err := newMounts(dir, fmt.Sprint("/proc/", os.Getppid())) // which stands for the host's process 1
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if m.host == nil {
			t.Fatal("not aware that the host has another mount namespace")
		}
		if err := m.Create(id); err != nil {
			t.Fatal(err)
		}
		return
	}
	// A file system of its own that is shared, as everything is below systemd: mounts in it reach its slaves.
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "slave", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), place+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a mount namespace of its own: %v\n%s", err, out)
	}
	if err := isNamespace(filepath.Join(dir, id)); err != nil {
		t.Errorf("what it mounted is not seen here: %v", err)
	}
	m, err := NewMounts(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Remove(id); err != nil {
		t.Error(err)
	}
}
