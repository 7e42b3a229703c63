package rtnl_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

func open(t testing.TB) *rtnl.Conn {
	t.Helper()
	ns := nstest.New(t, "ns")
	var c *rtnl.Conn
	if err := ns.Do(func() (err error) {
		c, err = rtnl.Open()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func blackhole(b *rtnl.Batch, typ, flags uint16, i int) {
	b.Begin(typ, flags)
	b.Route(rtnl.RouteHeader{Family: unix.AF_INET, Bits: 32, Table: unix.RT_TABLE_MAIN, Protocol: 176, Type: unix.RTN_BLACKHOLE})
	b.IP(unix.RTA_DST, netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}))
}

func count(t testing.TB, c *rtnl.Conn) int {
	t.Helper()
	var b rtnl.Batch
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Route(rtnl.RouteHeader{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Protocol: 176})
	n := 0
	if err := c.Dump(&b, func() { n = 0 }, func(rtnl.Message) { n++ }); err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	return n
}

func TestErrorsBelongToTheirRequests(t *testing.T) {
	c := open(t)
	const n = 5000 // several sendmsg
	var b rtnl.Batch
	for i := range n {
		blackhole(&b, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, i-i%2) // every second one exists
	}
	for i, err := range c.Do(&b, nil) {
		if exists := errors.Is(err, unix.EEXIST); exists != (i%2 == 1) || !exists && err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if got := count(t, c); got != n/2 {
		t.Fatalf("%d routes", got)
	}
	// Nothing but failures, every one of which is a reply.
	b = rtnl.Batch{}
	for i := range n {
		blackhole(&b, unix.RTM_DELROUTE, 0, 1<<20+i)
	}
	for i, err := range c.Do(&b, nil) {
		if !errors.Is(err, unix.ESRCH) {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}

func TestKernelsWordsAreKept(t *testing.T) {
	c := open(t)
	var b rtnl.Batch
	b.Begin(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE)
	b.NextHop(unix.AF_INET, 0, 176, 0)
	err := c.One(&b, nil)
	var refused *rtnl.Error
	if !errors.As(err, &refused) || refused.Text == "" {
		t.Fatalf("%v", err)
	}
}

// The library's own Execute panics on this answer.
func TestDumpThatFails(t *testing.T) {
	c := open(t)
	var b rtnl.Batch
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Route(rtnl.RouteHeader{Family: unix.AF_INET, Table: 4242})
	b.Uint32(unix.RTA_TABLE, 4242)
	err := c.Dump(&b, func() {}, func(rtnl.Message) { t.Error("route in a table that is not there") })
	var refused *rtnl.Error
	if !errors.As(err, &refused) || !errors.Is(err, unix.ENOENT) || refused.Text == "" {
		t.Fatalf("%v", err)
	}
}

func TestInterruptedDumpsStartAgain(t *testing.T) {
	tries := 0
	if err := rtnl.Uninterrupted(func() error {
		if tries++; tries < 3 {
			return nl.ErrDumpInterrupted
		}
		return unix.ENOENT
	}); tries != 3 || !errors.Is(err, unix.ENOENT) {
		t.Errorf("%d tries: %v", tries, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	c := open(t)
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for w := range 8 {
		wg.Go(func() {
			for i := range 100 {
				var b rtnl.Batch
				blackhole(&b, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, w<<10|i)
				if err := c.One(&b, nil); err != nil {
					errs <- fmt.Errorf("%d/%d: %w", w, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if got := count(t, c); got != 800 {
		t.Errorf("%d routes", got)
	}
}

func TestClosed(t *testing.T) {
	c := open(t)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var b rtnl.Batch
	blackhole(&b, unix.RTM_NEWROUTE, 0, 1)
	if err := c.One(&b, nil); err == nil {
		t.Error("sent through a closed socket")
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 1, 2, 3, 4})
	f.Add([]byte{5, 0, 1, 128, 1}) // not padded
	f.Add([]byte{3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		rtnl.Attributes(in, func(_ uint16, v []byte) {
			rtnl.Uint32(v)
			rtnl.Addr(v)
			rtnl.CString(v)
		})
	})
}
