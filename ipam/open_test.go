package ipam

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReopen(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29", "fd00::/64")
	f.allocate("a")
	f.allocate("b")
	f.allocate("c")
	f.release("b")
	f.clock.add(time.Second)
	f.reopen(boot1, "10.1.0.0/29", "fd00::/64")
	f.want("a", "10.1.0.0", "fd00::")
	f.want("b")
	f.want("c", "10.1.0.2", "fd00::2")
	if q := f.Quarantined(); len(q) != 2 || f.clock.now().Sub(q[0].Since) != time.Second {
		t.Errorf("quarantine did not survive: %+v", q)
	}
	f.allocate("d")
	f.want("d", "10.1.0.3", "fd00::3")

	// After a reboot nothing is leased, and what was rests.
	f.reopen(boot2, "10.1.0.0/29", "fd00::/64")
	if l := f.Leases(); len(l) != 0 {
		t.Errorf("leases of another boot: %v", l)
	}
	if q := f.Quarantined(); len(q) != 8 {
		t.Errorf("%d in quarantine, want 8", len(q))
	}
	f.allocate("e")
	f.want("e", "10.1.0.4", "fd00::4")
	f.reopen(boot2, "10.1.0.0/29", "fd00::/64")
	f.want("e", "10.1.0.4", "fd00::4")
	// The old boot's id coming back is a third boot, not the first one again.
	f.reopen(boot1, "10.1.0.0/29", "fd00::/64")
	f.want("e")
	f.want("a")
}

func TestClockSetBackWhileDown(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	f.allocate("a")
	f.release("a")
	f.clock.add(-time.Hour)
	f.reopen(boot1, "10.1.0.0/30")
	f.clock.add(DefaultQuarantine)
	if q := f.Quarantined(); len(q) != 0 {
		t.Errorf("still in quarantine: %v", q)
	}
}

func TestOpenIsExclusive(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	if _, err := Open(f.path, f.opts); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), f.path) {
		t.Errorf("second open: %v", err)
	}
	f.reopen(boot1)
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	good := header{generation: 1, bootID: boot1}.encode()
	edit := func(off int, b byte) []byte {
		e := bytes.Clone(good)
		e[off] = b
		return e
	}
	for _, tc := range []struct {
		name    string
		content []byte
		text    string
	}{
		{"text", []byte("10.0.0.1 eth0\n"), "does not begin"},
		{"zeroes", make([]byte, headerSize), "does not begin"},
		{"cut off", good[:100], "does not begin"},
		{"newer version", edit(hdrVersion, 2), "version 2"},
		{"slot size", edit(hdrSlotSize, 7), "slots have"},
		{"damaged", edit(hdrBootID, 'x'), "header is damaged"},
		{"boot id length", edit(hdrBootIDLen, 200), "header is damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases")
			if err := os.WriteFile(path, tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path, Options{BootID: boot1})
			if !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v", err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(after, tc.content) {
				t.Error("the file was changed")
			}
		})
	}
	if _, err := Open(t.TempDir(), Options{}); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := Open("/dev/null", Options{}); !errors.Is(err, ErrUnreadable) {
		t.Errorf("device: %v", err)
	}
}

func TestKernelBootIDIsTheDefault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "leases")
	for range 2 {
		a, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SetBlocks(testBlocks("10.0.0.0/24")); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Allocate(testKey("a"), Request{}); err != nil {
			t.Fatal(err)
		}
		if l := a.Leases(); len(l) != 1 || l[0].Addr.String() != "10.0.0.0" {
			t.Errorf("leases: %v", l)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClosed(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, errA := f.Allocate(testKey("a"), Request{})
	_, errR := f.Release(testKey("a"))
	for _, err := range []error{errA, errR, f.SetBlocks(nil)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

// A process killed between the two writes of a dual-stack allocation has not acknowledged it; nothing of it remains.
func TestKilledBetweenTheTwoWrites(t *testing.T) {
	f, d := onMemory(t, Options{}, "10.1.0.0/29", "fd00::/64")
	f.allocate("a")
	writes := 0
	d.fail = func() (failure, bool) { writes++; return failure{err: io.ErrClosedPipe}, writes > 1 }
	if _, err := f.Allocate(testKey("b"), Request{}); !errors.Is(err, ErrStorage) {
		t.Fatalf("got %v", err)
	}
	f.restart(d, "10.1.0.0/29", "fd00::/64")
	f.want("a", "10.1.0.0", "fd00::")
	f.want("b")
	if q := f.Quarantined(); len(q) != 1 || q[0].Addr.String() != "10.1.0.1" {
		t.Errorf("quarantined: %v", q)
	}
	// The same for a release: it was begun, so it is finished.
	writes = 0
	d.fail = func() (failure, bool) { writes++; return failure{err: io.ErrClosedPipe}, writes > 1 }
	if _, err := f.Release(testKey("a")); !errors.Is(err, ErrStorage) {
		t.Fatalf("got %v", err)
	}
	f.want("a", "10.1.0.0", "fd00::")
	f.restart(d, "10.1.0.0/29", "fd00::/64")
	f.want("a")
	if l := f.Leases(); len(l) != 0 {
		t.Errorf("leases: %v", l)
	}
}
