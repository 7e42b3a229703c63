package ipam

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
)

var crashRounds = flag.Int("crash.rounds", 100, "how often the crash test kills an agent")

// Environment of the child that is killed.
const (
	crashFile = "HOSTFABRIC_TEST_CRASH_FILE"
	crashLazy = "HOSTFABRIC_TEST_CRASH_LAZY" // answer before writing: a fault that the test must find
)

const crashCallers = 64

// crashBlocks have room for what the callers hold and what earlier children left behind, and little more: addresses
// are reused all the time.
var crashBlocks = testBlocks("10.1.0.0/24", "fd00::/120")

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		if err := crashChild(path, os.Getenv(crashLazy) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashChild allocates and releases until it is killed, and writes a line to stdout for each step: "A key addresses"
// once an allocation is acknowledged, "R key" before a release, "F key" once that is acknowledged.
func crashChild(path string, lazy bool) error {
	a, err := Open(path, Options{BootID: boot1, Quarantine: time.Microsecond})
	if err != nil {
		return err
	}
	if err := a.SetBlocks(crashBlocks); err != nil {
		return err
	}
	answered := func() error { return nil }
	if lazy {
		d := &lazyDisk{disk: a.slots.disk}
		a.slots.disk, answered = d, d.flush
	}
	var old []Key
	for _, l := range a.Leases() {
		if l.Addr.Is4() {
			old = append(old, l.Key)
		}
	}
	errs := make(chan error)
	for g := range crashCallers {
		c := &crashCaller{a: a, answered: answered}
		go func() { errs <- c.run(g, old) }()
	}
	return <-errs
}

// crashCaller is one of the child's goroutines.
type crashCaller struct {
	a        *Allocator
	answered func() error // is called after each answer
}

func (c *crashCaller) run(g int, old []Key) error {
	for i, key := range old { // three of four of an earlier child's leases end, the fourth is kept
		if i%crashCallers == g && i%4 != 0 {
			if err := c.release(key); err != nil {
				return err
			}
		}
	}
	var held []Key
	for n := 0; ; n++ {
		key := testKey(fmt.Sprintf("p%d-g%d-n%d", os.Getpid(), g, n))
		leases, err := c.a.Allocate(key, Request{})
		switch {
		case err == nil:
			held = append(held, key)
			err = c.say("A %s %s", key.ContainerID, text(leases))
		case errors.Is(err, ErrExhausted):
			err = nil // others, or this one, are about to release
		}
		if err != nil {
			return err
		}
		if len(held) > n%2 { // it holds one most of the time
			if err := c.release(held[0]); err != nil {
				return err
			}
			held = held[1:]
		}
	}
}

func (c *crashCaller) release(key Key) error {
	if err := c.say("R %s", key.ContainerID); err != nil {
		return err
	}
	if _, err := c.a.Release(key); err != nil {
		return err
	}
	return c.say("F %s", key.ContainerID)
}

func (c *crashCaller) say(format string, args ...any) error {
	_, err := os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n") // one write, so lines stay whole and in order
	return errors.Join(err, c.answered())
}

// lazyDisk writes only once it is told to: an allocator that answers first.
type lazyDisk struct {
	disk
	mu      sync.Mutex
	pending []lateWrite
}

type lateWrite struct {
	data []byte
	off  int64
}

func (d *lazyDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = append(d.pending, lateWrite{append([]byte(nil), p...), off})
	return len(p), nil
}

func (d *lazyDisk) flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.pending {
		if _, err := d.disk.WriteAt(w.data, w.off); err != nil {
			return err
		}
	}
	d.pending = d.pending[:0]
	return nil
}

// TestCrash kills an agent with many callers at random moments. After each restart no address is held twice and no
// acknowledged lease is lost. Once the leases are reconciled with what is alive, just that is held, and all other
// addresses can be had.
func TestCrash(t *testing.T) {
	r := newCrashRun(t, false)
	for round := range *crashRounds {
		r.round(t, round%10 == 0)
		if t.Failed() || r.failed() {
			break
		}
	}
	for _, p := range append(r.ledger.duplicates, r.ledger.problems...) {
		t.Error(p)
	}
	t.Logf("%d kills, %d steps, %d orphans freed, %d alive at the end", r.rounds, r.ledger.steps, r.orphans, len(r.ledger.alive))
}

// TestCrashTestCanFail: the same run, with the write moved after the answer, finds an address that was acknowledged to
// two keys. That leases are lost on the way does not end it.
func TestCrashTestCanFail(t *testing.T) {
	const most = 200
	r := newCrashRun(t, true)
	for len(r.ledger.duplicates) == 0 && r.rounds < most {
		r.round(t, false)
	}
	if len(r.ledger.duplicates) == 0 {
		t.Fatalf("answering before the lease is written gave no address to two keys in %d kills", most)
	}
	t.Logf("after %d kills: %s", r.rounds, r.ledger.duplicates[0])
}

func newCrashRun(t *testing.T, lazy bool) *crashRun {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &crashRun{
		path: t.TempDir() + "/leases", lazy: lazy, rng: rand.New(rand.NewPCG(seed, 2)),
		ledger: &ledger{alive: map[string]string{}, owner: map[string]string{}},
	}
}
