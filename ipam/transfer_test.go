package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

func TestTransfer(t *testing.T) {
	f, disk := onMemory(t, Options{}, "10.1.0.0/30", "fd00::/64")
	four, six, both := Key{"r1", "r"}, Key{"r2", "r"}, testKey("c")
	hold := func(key Key, want string) {
		t.Helper()
		if got, _ := f.Lookup(key); strings.TrimSpace(text(got)) != want {
			t.Errorf("%s holds %q, want %q", key, text(got), want)
		}
	}
	mustTransfer := func(to Key, from ...Key) {
		t.Helper()
		if _, err := f.Transfer(to, from...); err != nil {
			t.Fatal(err)
		}
	}
	f.hold(four, "10.1.0.1")
	f.hold(six, "fd00::1")

	// What cannot be one allocation stays as it is.
	f.hold(Key{"r3", "r"}, "10.1.0.2")
	for name, from := range map[string][]Key{"nothing": nil, "who holds nothing": {four, testKey("x")}, "one family twice": {four, {"r3", "r"}}, "one key twice": {four, four}} {
		if _, err := f.Transfer(both, from...); !errors.Is(err, ErrMismatch) {
			t.Errorf("from %s: %v", name, err)
		}
	}
	if _, err := f.Transfer(six, four); !errors.Is(err, ErrMismatch) {
		t.Errorf("to who holds something: %v", err)
	}
	if _, err := f.Transfer(Key{"", "r"}, four); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("to no key: %v", err)
	}
	hold(four, "10.1.0.1")
	hold(six, "fd00::1")

	// A write that fails leaves it undone, in the file too.
	disk.fail = failAlways(syscall.EIO)
	if _, err := f.Transfer(both, four, six); !errors.Is(err, ErrStorage) {
		t.Errorf("on a broken disk: %v", err)
	}
	disk.fail = nil
	hold(four, "10.1.0.1")

	mustTransfer(both, six, four)
	hold(both, "10.1.0.1 fd00::1")
	hold(four, "")
	hold(six, "")
	if key, ok := f.Holder(netip.MustParseAddr("10.1.0.1")); !ok || key != both {
		t.Errorf("10.1.0.1 is held by %v", key)
	}
	if _, ok := f.Holder(netip.MustParseAddr("10.1.0.3")); ok {
		t.Error("a free address has a holder")
	}
	usage := fmt.Sprint(f.Usage()[0].Leased, f.Usage()[1].Leased)
	if usage != "2 1" {
		t.Errorf("leased by block: %s", usage)
	}
	f.restart(disk, "10.1.0.0/30", "fd00::/64")
	hold(both, "10.1.0.1 fd00::1")
	if _, err := f.Release(both); err != nil {
		t.Fatal(err)
	}
	if f.Usage()[0].Leased != 1 {
		t.Errorf("left leased: %d", f.Usage()[0].Leased)
	}
}

// TestTransferCutShort kills the process between the two writes: at most one address is with its old key, none with the new.
func TestTransferCutShort(t *testing.T) {
	f, disk := onMemory(t, Options{}, "10.1.0.0/30", "fd00::/64")
	four, six, both := Key{"r1", "r"}, Key{"r2", "r"}, testKey("c")
	f.hold(four, "10.1.0.1")
	f.hold(six, "fd00::1")
	writes := 0
	disk.fail = func() (failure, bool) { writes++; return failure{err: syscall.EIO}, writes > 1 }
	if _, err := f.Transfer(both, four, six); !errors.Is(err, ErrStorage) {
		t.Fatal(err)
	}
	disk.fail = nil
	f.restart(disk, "10.1.0.0/30", "fd00::/64")
	if leases, held := f.Lookup(both); held {
		t.Errorf("nobody was told of %v", leases)
	}
	if leases, _ := f.Lookup(six); text(leases) != "fd00::1 " {
		t.Errorf("%s holds %v", six, leases)
	}
}

// hold leases one address.
func (f *fixture) hold(key Key, addr string) {
	f.t.Helper()
	a := netip.MustParseAddr(addr)
	family := OnlyIPv4
	if a.Is6() {
		family = OnlyIPv6
	}
	if _, err := f.Allocate(key, Request{Addresses: []netip.Addr{a}, Family: family}); err != nil {
		f.t.Fatal(err)
	}
}
