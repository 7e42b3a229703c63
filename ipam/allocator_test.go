package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestKeyValidate(t *testing.T) {
	for _, tc := range []struct {
		id, name string
		ok       bool
	}{
		{"a", "eth0", true},
		{"0123456789abcdefABCDEF_.-", "eth0", true},
		{strings.Repeat("x", 128), strings.Repeat("y", 15), true},
		{"", "eth0", false},
		{strings.Repeat("x", 129), "eth0", false},
		{"-a", "eth0", false},
		{".a", "eth0", false},
		{"a/b", "eth0", false},
		{"a b", "eth0", false},
		{"ä", "eth0", false},
		{"a\x00", "eth0", false},
		{"a", "", false},
		{"a", "0123456789abcdef", false},
		{"a", "eth/0", false},
		{"a", "eth:0", false},
		{"a", "eth 0", false},
		{"a", "eth\t0", false},
		{"a", "..", false},
		{"a", "eth\x00", false},
	} {
		err := Key{tc.id, tc.name}.Validate()
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrInvalidKey) {
			t.Errorf("%q/%q: %v", tc.id, tc.name, err)
		}
	}
	f := newFixture(t, "10.1.0.0/30")
	if _, err := f.Allocate(Key{"a", ""}, Request{}); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("got %v", err)
	}
	if leases, err := f.Release(Key{"", "?"}); leases != nil || err != nil {
		t.Errorf("release of what cannot be held: %v, %v", leases, err)
	}
}

func TestAllocateIsIdempotentByKey(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29", "fd00::/64")
	first, err := f.Allocate(testKey("a"), Request{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Lease{
		{testKey("a"), netip.MustParseAddr("10.1.0.0"), netip.MustParsePrefix("10.1.0.0/29"), DefaultPool, f.clock.now()},
		{testKey("a"), netip.MustParseAddr("fd00::"), netip.MustParsePrefix("fd00::/64"), DefaultPool, f.clock.now()},
	}
	sameTime := cmp.Comparer(time.Time.Equal)
	plain := cmp.Options{sameTime, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	if d := cmp.Diff(want, first, plain); d != "" {
		t.Fatal(d)
	}
	f.clock.add(time.Hour)
	for _, wish := range [][]string{nil, {"10.1.0.0"}, {"fd00::"}, {"fd00::", "10.1.0.0"}, {"::ffff:10.1.0.0"}} {
		again, err := f.Allocate(testKey("a"), request(wish...))
		if d := cmp.Diff(first, again, plain); err != nil || d != "" {
			t.Errorf("again with %v: %v %s", wish, err, d)
		}
	}
	for _, wish := range [][]string{{"10.1.0.1"}, {"10.1.0.0", "fd00::1"}, {"192.0.2.1"}} {
		if _, err := f.Allocate(testKey("a"), request(wish...)); !errors.Is(err, ErrMismatch) {
			t.Errorf("again with %v: %v", wish, err)
		}
	}
	released, err := f.Release(testKey("a"))
	if d := cmp.Diff(first, released, plain); err != nil || d != "" {
		t.Errorf("release: %v %s", err, d)
	}
	if released, err := f.Release(testKey("a")); released != nil || err != nil {
		t.Errorf("second release: %v, %v", released, err)
	}
	// The same container's other interface is another key.
	f.allocate("a")
	if _, err := f.Allocate(Key{"a", "eth1"}, Request{}); err != nil {
		t.Error(err)
	}
}

func TestReuseIsLongestFreeFirst(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	for _, id := range []string{"a", "b", "c"} {
		f.allocate(id)
	}
	f.release("b")
	f.clock.add(time.Second)
	f.release("a")
	f.clock.add(time.Minute)
	steps := []struct{ id, addr string }{{"d", "10.1.0.3"}, {"e", "10.1.0.1"}, {"f", "10.1.0.0"}}
	for _, s := range steps {
		f.allocate(s.id)
		f.want(s.id, s.addr)
	}
	if _, err := f.Allocate(testKey("g"), Request{}); !errors.Is(err, ErrExhausted) {
		t.Errorf("full block: %v", err)
	}
	// Under pressure the longest-free address is given before its quarantine ends.
	f.release("c")
	f.clock.add(time.Second)
	f.release("e")
	f.allocate("g")
	f.want("g", "10.1.0.2")
}

func TestQuarantineKeepsAddressesApart(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29")
	f.allocate("a")
	f.release("a")
	q := f.Quarantined()
	if len(q) != 1 || q[0].Addr.String() != "10.1.0.0" || !q[0].Since.Equal(f.clock.now()) || q[0].Until.Sub(q[0].Since) != DefaultQuarantine || q[0].Block.String() != "10.1.0.0/29" {
		t.Errorf("quarantined: %+v", q)
	}
	if u := f.Usage()[0]; u.Quarantined != 1 || u.Leased != 0 || u.Free.Int64() != 7 || u.Size.Int64() != 8 {
		t.Errorf("usage: %+v", u)
	}
	f.clock.add(DefaultQuarantine - 1)
	if len(f.Quarantined()) != 1 {
		t.Error("quarantine ended too early")
	}
	f.clock.add(1)
	if q := f.Quarantined(); len(q) != 0 {
		t.Errorf("quarantine goes on: %v", q)
	}
	if u := f.Usage()[0]; u.Quarantined != 0 || u.Free.Int64() != 8 {
		t.Errorf("usage: %+v", u)
	}
}

// A huge block must neither grow the file for ever nor reuse an address that rests.
func TestHugeBlockPrefersRestedBeyondLimit(t *testing.T) {
	f := newFixture(t, "fd00::/64")
	f.Allocator.book.blocks[0].known = freshLimit - 2 // as if that many had been used
	next := func(id, want string) {
		t.Helper()
		f.allocate(id)
		f.want(id, want)
	}
	next("a", "fd00::")
	next("b", "fd00::1")
	f.release("a")
	next("c", "fd00::2") // a's address rests
	f.clock.add(time.Minute)
	next("d", "fd00::")
	next("e", "fd00::3")
}

func TestWantedAddresses(t *testing.T) {
	f := newFixture(t)
	if err := f.SetBlocks([]Block{{Prefix: netip.MustParsePrefix("10.1.0.0/29"), Reserved: testRanges("10.1.0.1")}}); err != nil {
		t.Fatal(err)
	}
	f.allocate("a", "10.1.0.5")
	f.allocate("b")
	f.allocate("c")
	f.want("a", "10.1.0.5")
	f.want("b", "10.1.0.0")
	f.want("c", "10.1.0.2") // 10.1.0.1 is reserved
	for _, tc := range []struct {
		wish []string
		err  error
	}{
		{[]string{"10.1.0.5"}, ErrAddressInUse},
		{[]string{"10.1.0.1"}, ErrAddressInUse},
		{[]string{"10.1.0.8"}, ErrNotInBlock},
		{[]string{"fd00::1"}, ErrNotInBlock},
		{[]string{"fe80::1%eth0"}, ErrNotInBlock},
		{[]string{"10.1.0.6", "10.1.0.7"}, ErrInvalidWish},
	} {
		if _, err := f.Allocate(testKey("x"), request(tc.wish...)); !errors.Is(err, tc.err) {
			t.Errorf("%v: got %v, want %v", tc.wish, err, tc.err)
		}
	}
	if _, err := f.Allocate(testKey("x"), Request{Addresses: []netip.Addr{{}}}); !errors.Is(err, ErrInvalidWish) {
		t.Errorf("empty address: %v", err)
	}
	// Who names an address that rests gets it: a container restarted with a fixed address.
	f.release("a")
	f.allocate("a2", "10.1.0.5")
	f.want("a2", "10.1.0.5")
}

func TestDualStackIsBothOrNone(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30", "fd00::/127")
	f.allocate("a")
	f.allocate("b")
	before := f.Usage()
	if _, err := f.Allocate(testKey("c"), Request{}); !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "fd00::/127") {
		t.Fatalf("got %v", err)
	}
	if _, err := f.Allocate(testKey("c"), request("10.1.0.3")); !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v", err)
	}
	if got, want := fmt.Sprint(f.Usage()), fmt.Sprint(before); got != want {
		t.Errorf("a refused allocation changed the usage: %s, before %s", got, want)
	}
	if _, held := f.Lookup(testKey("c")); held {
		t.Error("a refused allocation holds something")
	}
}

func TestBlocks(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	f.allocate("a")
	for _, tc := range []struct {
		name   string
		blocks []Block
	}{
		{"overlap", testBlocks("10.1.0.0/29", "10.1.0.4/30")},
		{"twice", testBlocks("10.1.0.0/30", "10.1.0.0/30")},
		{"host bits", testBlocks("10.1.0.1/30")},
		{"multicast", testBlocks("224.0.1.0/24")},
		{"loopback", testBlocks("127.0.0.0/24")},
		{"link-local", testBlocks("fe80::/64")},
		{"everything", testBlocks("0.0.0.0/0")},
		{"mapped", testBlocks("::ffff:10.0.0.0/120")},
		{"nothing", []Block{{}}},
		{"reserved outside", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Reserved: testRanges("10.1.0.4")}}},
		{"reserved sticks out", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Reserved: testRanges("10.1.0.3-10.1.0.4")}}},
		{"reserved covers", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Reserved: testRanges("10.1.0.0/29")}}},
		{"reserved reversed", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Reserved: []Range{{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.1")}}}}},
		{"reserved of two families", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Reserved: []Range{{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00::")}}}}},
		{"reserved nothing", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Reserved: []Range{{}}}}},
		{"pool name", []Block{{Prefix: netip.MustParsePrefix("10.1.0.0/30"), Pool: "Gold"}}},
	} {
		if err := f.SetBlocks(tc.blocks); !errors.Is(err, ErrInvalidBlocks) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if u := f.Usage(); len(u) != 1 || u[0].Leased != 1 {
		t.Fatalf("refused blocks changed something: %v", u)
	}

	f.setBlocks("10.2.0.0/30")
	if l := f.Leases(); len(l) != 1 || l[0].Block.IsValid() || l[0].Addr.String() != "10.1.0.0" {
		t.Errorf("lease outside every block: %+v", l)
	}
	f.allocate("b")
	f.want("b", "10.2.0.0")
	if leased, stray := f.Count(); leased != 2 || stray != 1 {
		t.Errorf("%d leased, %d outside every block", leased, stray)
	}
	f.release("a")
	if q := f.Quarantined(); len(q) != 1 || q[0].Block.IsValid() {
		t.Errorf("quarantined outside every block: %+v", q)
	}
	f.setBlocks("10.1.0.0/30", "10.2.0.0/30")
	f.allocate("c")
	f.want("c", "10.1.0.1") // never used, where 10.1.0.0 still rests
	f.setBlocks()
	if _, err := f.Allocate(testKey("d"), Request{}); !errors.Is(err, ErrExhausted) {
		t.Errorf("without blocks: %v", err)
	}
}

// Slots of addresses that no block has any more are used again, so that changing blocks does not grow the file.
func TestSlotsOfRemovedBlocksAreReused(t *testing.T) {
	f := newFixture(t)
	for round := range 40 {
		f.setBlocks(fmt.Sprintf("10.%d.0.0/24", round+1))
		for i := range 256 {
			f.allocate(fmt.Sprintf("c%d", i))
		}
		for i := range 256 {
			f.release(fmt.Sprintf("c%d", i))
		}
		f.clock.add(time.Minute)
	}
	if n := len(f.book.records); n > 2*chunk {
		t.Errorf("%d slots for 256 addresses at a time", n)
	}
	f.reopen(boot1, "10.40.0.0/24")
	if n := len(f.Damaged()); n != 0 {
		t.Errorf("%d damaged slots", n)
	}
}

// An address that is reserved while it is leased stays leased, and is not handed out again.
func TestReservedWhileLeased(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	f.allocate("a")
	blocks := testBlocks("10.1.0.0/30")
	blocks[0].Reserved = testRanges("10.1.0.0", "10.1.0.0/31")
	if err := f.SetBlocks(blocks); err != nil {
		t.Fatal(err)
	}
	blocks[0].Reserved[1] = Range{} // the caller may do as it likes with its own
	wantUsage := func(leased uint64, reserved, free int64) {
		t.Helper()
		if u := f.Usage()[0]; u.Leased != leased || u.Reserved.Int64() != reserved || u.Quarantined != 0 || u.Free.Int64() != free {
			t.Errorf("usage: %+v, want %d leased, %d reserved, %d free", u, leased, reserved, free)
		}
	}
	f.want("a", "10.1.0.0")
	wantUsage(1, 1, 2)
	f.release("a")
	wantUsage(0, 2, 2)
	f.clock.add(time.Hour)
	f.allocate("b")
	f.allocate("c")
	f.want("b", "10.1.0.2")
	f.want("c", "10.1.0.3")
	if _, err := f.Allocate(testKey("d"), Request{}); !errors.Is(err, ErrExhausted) {
		t.Errorf("a reserved address was handed out: %v", err)
	}
}
