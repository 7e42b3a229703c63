package ipam

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const boot1, boot2 = "boot-1", "boot-2"

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_700_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// fixture is an allocator under test, with its file and clock.
type fixture struct {
	*Allocator
	t     testing.TB
	path  string
	clock *clock
	opts  Options
}

func newFixture(t testing.TB, blocks ...string) *fixture {
	t.Helper()
	c := newClock()
	f := &fixture{
		t: t, path: filepath.Join(t.TempDir(), "leases"), clock: c,
		opts: Options{BootID: boot1, Now: c.now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))},
	}
	f.open(blocks...)
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open(blocks ...string) {
	f.t.Helper()
	a, err := Open(f.path, f.opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Allocator = a
	f.setBlocks(blocks...)
}

func (f *fixture) close() {
	f.t.Helper()
	if err := f.Close(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) reopen(boot string, blocks ...string) {
	f.t.Helper()
	f.close()
	f.opts.BootID = boot
	f.open(blocks...)
}

func (f *fixture) setBlocks(blocks ...string) {
	f.t.Helper()
	if err := f.SetBlocks(testBlocks(blocks...)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) allocate(id string, wanted ...string) []netip.Addr {
	f.t.Helper()
	leases, err := f.Allocate(testKey(id), request(wanted...))
	if err != nil {
		f.t.Fatal(err)
	}
	return addrsOf(leases)
}

func (f *fixture) release(id string) {
	f.t.Helper()
	if _, err := f.Release(testKey(id)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) want(id string, addrs ...string) {
	f.t.Helper()
	leases, _ := f.Lookup(testKey(id))
	if got, want := fmt.Sprint(addrsOf(leases)), fmt.Sprint(addrs); got != want {
		f.t.Errorf("%s holds %s, want %s", id, got, want)
	}
}

func testKey(id string) Key { return Key{ContainerID: id, Interface: "eth0"} }

func testBlocks(prefixes ...string) []Block {
	var blocks []Block
	for _, p := range prefixes {
		blocks = append(blocks, Block{Prefix: netip.MustParsePrefix(p), Source: "test"})
	}
	return blocks
}

func testRanges(texts ...string) []Range {
	var rs []Range
	for _, s := range texts {
		r, err := ParseRange(s)
		if err != nil {
			panic(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func request(addrs ...string) Request {
	var r Request
	for _, a := range addrs {
		r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
	}
	return r
}

func addrsOf(leases []Lease) []netip.Addr {
	var out []netip.Addr
	for _, l := range leases {
		out = append(out, l.Addr)
	}
	return out
}
