package ipam

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A real file system runs full and is given room again, in one way or another. No restart is needed.
func TestDiskFull(t *testing.T) {
	for name, makeRoom := range map[string]func(dir, ballast string) error{
		"something else is removed": func(_, ballast string) error { return os.Remove(ballast) },
		"the file system grows": func(dir, _ string) error {
			return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=1m")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := smallDisk(t, "64k")
			ballast := filepath.Join(dir, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 32<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			f := onDisk(t, dir)
			f.open("10.1.0.0/16")
			if err := f.Err(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a disk with too little room is not noticed early: %v", err)
			}
			n := 0
			var err error
			for ; err == nil && n < 4096; n++ {
				_, err = f.Allocate(testKey(strconv.Itoa(n)), Request{})
			}
			n--
			if !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "no space left on device") {
				t.Fatalf("allocation %d: %v", n, err)
			}
			if want := (32<<10 - headerSize) / slotSize; n != want {
				t.Errorf("%d leases on the full disk, want %d", n, want)
			}
			if l := f.Leases(); len(l) != n {
				t.Errorf("%d leases, want %d", len(l), n)
			}
			f.release("0")
			f.allocate("again") // an address that has a slot needs no room
			f.want("again", "10.1.0.0")
			if err := makeRoom(dir, ballast); err != nil {
				t.Fatal(err)
			}
			f.allocate("more")
			before := text(f.Leases())
			f.reopen(boot1, "10.1.0.0/16")
			if after := text(f.Leases()); after != before || len(f.Leases()) != n+1 {
				t.Errorf("leases after recovery and restart: %s, before %s", after, before)
			}
			f.close()
		})
	}
}

// smallDisk mounts a tmpfs for the test.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small tmpfs (root is needed): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func onDisk(t *testing.T, dir string) *fixture {
	c := newClock()
	return &fixture{t: t, path: filepath.Join(dir, "leases"), clock: c, opts: Options{BootID: boot1, Now: c.now}}
}

// The lease file becomes read-only under a running agent and writable again. On a file system that has such a flag for
// a file it is set, and elsewhere the disk is made to fail in the same way.
func TestReadOnlyFile(t *testing.T) {
	for name, dir := range map[string]string{"state directory": t.TempDir(), "tmpfs": smallDisk(t, "4m")} {
		t.Run(name, func(t *testing.T) {
			f := onDisk(t, dir)
			f.open("10.1.0.0/29", "fd00::/64")
			t.Cleanup(f.close)
			f.allocate("a")
			f.allocate("b")
			readOnly := immutable(t, f)
			readOnly(true)
			for range 3 {
				_, errA := f.Allocate(testKey("c"), Request{})
				_, errR := f.Release(testKey("a"))
				errJ := f.Reject(testKey("a"), inUse("10.1.0.0/32")[0])
				for _, err := range []error{errA, errR, errJ, f.Err()} {
					if !errors.Is(err, ErrStorage) || !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "lease file not writable") {
						t.Errorf("got %v", err)
					}
				}
				if !strings.Contains(errA.Error(), "c/eth0") || !strings.Contains(errR.Error(), "a/eth0") {
					t.Errorf("errors without their keys: %v, %v", errA, errR)
				}
			}
			f.want("a", "10.1.0.0", "fd00::")
			f.want("b", "10.1.0.1", "fd00::1")
			f.want("c")
			if again := f.allocate("b"); len(again) != 2 { // an answer that needs no write
				t.Errorf("got %v", again)
			}
			readOnly(false)
			f.allocate("c")
			f.release("a")
			if err := f.Err(); err != nil {
				t.Errorf("Err after recovery: %v", err)
			}
			for range 2 {
				f.want("a")
				f.want("b", "10.1.0.1", "fd00::1")
				f.want("c", "10.1.0.3", "fd00::3") // the one before has a slot that says nothing sure
				if n, d := len(f.Leases()), f.Damaged(); n != 4 || len(d) != 0 {
					t.Errorf("%d leases, damaged %v", n, d)
				}
				f.reopen(boot1, "10.1.0.0/29", "fd00::/64")
			}
		})
	}
}

const immutableFlag = 0x10 // FS_IMMUTABLE_FL of linux/fs.h

// immutable returns what sets and clears the flag of chattr +i on the fixture's file, and proves that it works.
func immutable(t *testing.T, f *fixture) func(bool) {
	t.Helper()
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	set := func(on bool) error {
		to := flags &^ immutableFlag
		if on {
			to |= immutableFlag
		}
		return unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, to)
	}
	if err == nil {
		t.Cleanup(func() { _ = set(false) }) // else the directory cannot be removed, which fails the test
		err = errors.Join(set(true), proveDenied(file), set(false))
	}
	if err != nil {
		t.Logf("%s is made read-only by a fault of the test's: %v", f.path, err)
		d := &deniedDisk{disk: f.slots.disk}
		f.slots.disk = d
		return func(on bool) { d.denied = on }
	}
	return func(on bool) {
		t.Helper()
		if err := set(on); err != nil {
			t.Fatal(err)
		}
	}
}

// proveDenied returns nil if a file that was opened before is protected from writes. On tmpfs it is not.
func proveDenied(file *os.File) error {
	_, err := file.WriteAt([]byte(magic[:1]), 0)
	switch {
	case err == nil:
		return errors.New("an immutable file that is open can be written")
	case !errors.Is(err, syscall.EPERM):
		return err
	}
	return nil
}

// deniedDisk refuses writes as that of an immutable file does.
type deniedDisk struct {
	disk
	denied bool
}

func (d *deniedDisk) WriteAt(p []byte, off int64) (int, error) {
	if d.denied {
		return 0, syscall.EPERM
	}
	return d.disk.WriteAt(p, off)
}
