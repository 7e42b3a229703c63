package ipam

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func inUse(prefixes ...string) []InUse {
	var set []InUse
	for _, p := range prefixes {
		set = append(set, InUse{Prefix: netip.MustParsePrefix(p), By: "address of eth0"})
	}
	return set
}

func TestInUse(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29", "fd00::/64")
	f.allocate("a")
	f.SetInUse(append(inUse("10.1.0.0/31", "10.1.0.5/32", "fd00::/65", "192.0.2.0/24", "10.1.0.5/32"), InUse{}))
	f.want("a", "10.1.0.0", "fd00::")
	f.allocate("b")
	f.want("b", "10.1.0.2", "fd00::8000:0:0:0")
	f.refused(ErrAddressInUse, "10.1.0.1 is used by address of eth0", "", "10.1.0.1")
	wantUsage := func(i int, want string) {
		t.Helper()
		u := f.Usage()[i]
		if got := fmt.Sprint(u.Leased, u.Quarantined, u.Reserved, u.InUse, u.Free, u.Withheld); got != want {
			t.Errorf("usage of %s: %s, want %s", u.Block.Prefix, got, want)
		}
		wantSum(t, u)
	}
	wantUsage(0, "2 0 0 2 4 0")
	wantUsage(1, "2 0 0 9223372036854775807 9223372036854775807 0")

	// It outlasts a change of blocks, and a range that is reserved as well counts as that.
	blocks := testBlocks("10.1.0.0/29")
	blocks[0].Reserved = testRanges("10.1.0.4/31")
	if err := f.SetBlocks(blocks); err != nil {
		t.Fatal(err)
	}
	wantUsage(0, "2 0 2 1 3 0")
	if got := fmt.Sprint(f.InUse()); got != "[{10.1.0.0/31 address of eth0} {10.1.0.5/32 address of eth0} {192.0.2.0/24 address of eth0} {fd00::/65 address of eth0}]" {
		t.Errorf("in use: %s", got)
	}

	// A lease in it ends as any does, and its address is not handed out.
	f.release("a")
	f.clock.add(time.Hour)
	wantUsage(0, "1 0 2 2 3 0")
	f.refused(ErrAddressInUse, "used by", "", "10.1.0.0")

	// What leaves rests: 10.1.0.0 was leased before, 10.1.0.1 never.
	f.SetInUse(nil)
	wantUsage(0, "1 1 2 0 3 1")
	for _, want := range []string{"10.1.0.3", "10.1.0.6", "10.1.0.7", "10.1.0.0"} { // the last one for want of others
		f.allocate(want)
		f.want(want, want)
	}
	f.clock.add(DefaultQuarantine - 1)
	wantUsage(0, "5 0 2 0 0 1")
	f.clock.add(1)
	wantUsage(0, "5 0 2 0 1 0")
	f.allocate("last")
	f.want("last", "10.1.0.1")
}

// What leaves can be had before it has rested, but only for want of anything else, and by whoever names it.
func TestInUseUnderPressure(t *testing.T) {
	f := newFixture(t, "10.1.0.0/30")
	f.SetInUse(inUse("10.1.0.1/32", "10.1.0.2/32"))
	f.allocate("a")
	f.clock.add(time.Second)
	f.SetInUse(inUse("10.1.0.2/32"))
	f.clock.add(time.Second)
	f.SetInUse(nil)
	f.release("a")
	f.clock.add(time.Second)
	f.allocate("b")
	f.want("b", "10.1.0.3") // the only one never used
	f.allocate("c")
	f.want("c", "10.1.0.1") // the longest free
	f.allocate("d", "10.1.0.2")
	f.want("d", "10.1.0.2")
	f.release("d")
	f.allocate("e")
	f.want("e", "10.1.0.0")
	f.allocate("f")
	f.want("f", "10.1.0.2")
	f.refused(ErrExhausted, "", "")
	// Back in use and gone again, it rests anew.
	f.release("f")
	f.clock.add(time.Hour)
	f.SetInUse(inUse("10.1.0.2/32"))
	f.refused(ErrExhausted, "", "")
	f.SetInUse(nil)
	if q := f.Quarantined(); len(q) != 1 || !q[0].Since.Equal(f.clock.now()) {
		t.Errorf("in quarantine: %v", q)
	}
}

// Nothing is put in order anew while the set stays the same.
func TestInUseUnchangedIsCheap(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29")
	set := inUse("10.1.0.0/31", "10.1.0.5/32")
	f.SetInUse(set)
	block := f.book.blocks[0]
	slices.Reverse(set)
	f.SetInUse(set)
	set[0].By = "a neighbour"
	f.SetInUse(set)
	if f.book.blocks[0] != block {
		t.Error("the blocks were built anew")
	}
	if u := f.InUse(); len(u) != 2 || u[0].By != "a neighbour" && u[1].By != "a neighbour" {
		t.Errorf("in use: %v", u)
	}
}

// Every method from many goroutines: the race detector looks on, and what is held in the end is distinct and adds up.
func TestConcurrentUse(t *testing.T) {
	f := newFixture(t, "10.1.0.0/26", "fd00::/122")
	sets := [][]InUse{nil, inUse("10.1.0.8/29"), inUse("10.1.0.0/32", "fd00::/125")}
	blocks := [][]string{{"10.1.0.0/26", "fd00::/122"}, {"10.1.0.0/26", "fd00::/122", "10.2.0.0/28"}}
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for n := range 200 {
				key := testKey(fmt.Sprintf("g%d-%d", g, n%3))
				_, err := f.Allocate(key, Request{})
				switch n % 10 {
				case 0:
					err = errors.Join(err, f.SetBlocks(testBlocks(blocks[n/10%2]...)))
				case 1:
					f.SetInUse(sets[n/10%3])
				case 2:
					err = errors.Join(err, f.Reject(key, sets[1][0]))
				case 3:
					f.Usage()
					f.Leases()
					f.Quarantined()
					f.InUse()
				default:
					_, released := f.Release(key)
					err = errors.Join(err, released)
				}
				if err != nil && !errors.Is(err, ErrExhausted) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantDistinct(t, f.Leases())
	for _, u := range f.Usage() {
		wantSum(t, u)
	}
	before := text(f.Leases())
	f.reopen(boot1, "10.1.0.0/26", "fd00::/122")
	if after := text(f.Leases()); after != before {
		t.Errorf("leases after a restart: %s, before: %s", after, before)
	}
}

// An address that comes and goes is remembered once, and no longer than it rests.
func TestInUseComingAndGoing(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29")
	for range 100 {
		f.SetInUse(inUse("10.1.0.1/32"))
		f.SetInUse(nil)
	}
	if n := len(f.book.left); n != 1 {
		t.Errorf("%d memories of one address", n)
	}
	f.clock.add(DefaultQuarantine)
	f.SetInUse(inUse("10.1.0.2/32"))
	if n := len(f.book.left); n != 0 {
		t.Errorf("%d memories of addresses that have rested", n)
	}
}

func TestReject(t *testing.T) {
	f, d := onMemory(t, Options{}, "10.1.0.0/29", "fd00::/64")
	f.SetInUse(inUse("10.1.0.4/32"))
	f.allocate("a")
	f.want("a", "10.1.0.0", "fd00::")
	use := InUse{Prefix: netip.MustParsePrefix("10.1.0.0/32"), By: "a neighbour on eth1"}

	// Not half of it: on an error the key holds what it held, and nothing is withheld.
	d.fail = failAlways(io.ErrClosedPipe)
	if err := f.Reject(testKey("a"), use); !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "10.1.0.0/32 is used by a neighbour on eth1") {
		t.Errorf("got %v", err)
	}
	d.fail = nil
	if err := f.Reject(testKey("a"), InUse{}); !errors.Is(err, ErrInvalidWish) {
		t.Errorf("nothing in use: %v", err)
	}
	f.want("a", "10.1.0.0", "fd00::")
	if u := f.InUse(); len(u) != 1 {
		t.Errorf("in use: %v", u)
	}

	if err := f.Reject(testKey("a"), use); err != nil {
		t.Fatal(err)
	}
	f.want("a")
	f.allocate("a")
	f.want("a", "10.1.0.1", "fd00::1")
	if u := f.InUse(); len(u) != 2 || u[0] != use {
		t.Errorf("in use: %v", u)
	}
	if err := f.Reject(testKey("nobody"), InUse{Prefix: netip.MustParsePrefix("10.1.0.2/32")}); err != nil {
		t.Errorf("of a key that holds nothing: %v", err)
	}
	f.allocate("b")
	f.want("b", "10.1.0.3", "fd00::2")
	f.refused(ErrAddressInUse, "used by something else", "", "10.1.0.2")
	// The release is in the file.
	f.restart(d, "10.1.0.0/29", "fd00::/64")
	f.want("a", "10.1.0.1", "fd00::1")
	if n := len(f.Leases()); n != 4 {
		t.Errorf("%d leases after a restart", n)
	}
}
