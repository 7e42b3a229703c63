package ipam

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var crashRounds = flag.Int("crash.rounds", 20, "how often the crash test kills an agent")

// Environment of the child that is killed.
const (
	crashFile = "HOSTFABRIC_TEST_CRASH_FILE"
	crashLazy = "HOSTFABRIC_TEST_CRASH_LAZY" // answer before writing: a fault that the test must find
)

const crashCallers = 16

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

var crashBlocks = testBlocks("10.1.0.0/26", "fd00::/122")

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
	if lazy {
		a.slots.disk = &lazyDisk{disk: a.slots.disk}
	}
	old := a.Leases()
	errs := make(chan error)
	for g := range crashCallers {
		go func() { errs <- crashCaller(a, g, old) }()
	}
	return <-errs
}

func crashCaller(a *Allocator, g int, old []Lease) error {
	say := func(format string, args ...any) error {
		_, err := os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n") // one write, so lines stay whole and in order
		return err
	}
	release := func(key Key) error {
		if err := say("R %s", key.ContainerID); err != nil {
			return err
		}
		if _, err := a.Release(key); err != nil {
			return err
		}
		return say("F %s", key.ContainerID)
	}
	for i, l := range old { // each of an earlier child's leases is released by one caller, or kept
		if i%(crashCallers*2) == g && l.Addr.Is4() {
			if err := release(l.Key); err != nil {
				return err
			}
		}
	}
	for n := 0; ; n++ {
		key := testKey(fmt.Sprintf("p%d-g%d-n%d", os.Getpid(), g, n))
		leases, err := a.Allocate(key, Request{})
		if errors.Is(err, ErrExhausted) {
			continue
		}
		if err != nil {
			return err
		}
		if err := say("A %s %s", key.ContainerID, text(leases)); err != nil {
			return err
		}
		if err := release(key); err != nil {
			return err
		}
	}
}

// lazyDisk holds each write back until the next: an allocator that answers before its lease is durable.
type lazyDisk struct {
	disk
	held []byte
	off  int64
}

func (d *lazyDisk) WriteAt(p []byte, off int64) (int, error) {
	if d.held != nil {
		if _, err := d.disk.WriteAt(d.held, d.off); err != nil {
			return 0, err
		}
	}
	d.held, d.off = append([]byte(nil), p...), off
	return len(p), nil
}

// ledger is what the killed children have acknowledged.
type ledger struct {
	held     map[string]string // key -> addresses, acknowledged and no release begun
	unsure   map[string]bool   // keys whose release was begun and not acknowledged
	owner    map[string]string // address -> key, of held
	problems []string
	steps    int
}

func newLedger() *ledger {
	return &ledger{held: map[string]string{}, unsure: map[string]bool{}, owner: map[string]string{}}
}

func (l *ledger) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

func (l *ledger) line(line string) {
	l.steps++
	verb, rest, _ := strings.Cut(line, " ")
	key, addrs, _ := strings.Cut(rest, " ")
	switch verb {
	case "A":
		l.held[key] = addrs
		for _, addr := range strings.Fields(addrs) {
			if other, taken := l.owner[addr]; taken {
				l.problem("%s was given to %s while %s has it", addr, key, other)
			}
			l.owner[addr] = key
		}
	case "R":
		for _, addr := range strings.Fields(l.held[key]) {
			delete(l.owner, addr)
		}
		delete(l.held, key)
		l.unsure[key] = true
	case "F":
		delete(l.unsure, key)
	}
}

// check compares with what a restarted agent finds in the file, and takes over what it could not know.
func (l *ledger) check(a *Allocator) {
	found := map[string]string{}
	seen := map[string]string{}
	for _, lease := range a.Leases() {
		id, addr := lease.Key.ContainerID, lease.Addr.String()
		if other := seen[addr]; other != "" {
			l.problem("%s is held by %s and %s", addr, other, id)
		}
		seen[addr] = id
		leases, _ := a.Lookup(lease.Key)
		found[id] = text(leases)
		if len(leases) != families {
			l.problem("%s holds half an allocation: %s", id, found[id])
		}
	}
	for id, addrs := range l.held {
		if found[id] != addrs {
			l.problem("lease of %s lost: it has %q, acknowledged was %q", id, found[id], addrs)
		}
	}
	if extra := len(found) - len(l.held); extra > crashCallers {
		l.problem("%d leases more than the %d callers can have had under way", extra, crashCallers)
	}
	for _, d := range a.Damaged() {
		l.problem("damaged: %+v", d)
	}
	l.held, l.unsure, l.owner = map[string]string{}, map[string]bool{}, map[string]string{}
	for id, addrs := range found {
		l.line("A " + id + " " + addrs)
	}
}

// crashRound lets a child work for so many steps, kills it, and reads what it said to the end.
func crashRound(t *testing.T, path string, lazy bool, steps int, l *ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	if lazy {
		cmd.Env = append(cmd.Env, crashLazy+"=1")
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill() }) // it can only have ended, which Wait tells
	defer kill()
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if n == steps {
			kill()
		}
		l.line(lines.Text())
	}
	if err := cmd.Wait(); stderr.Len() > 0 || err == nil || ctx.Err() != nil {
		t.Fatalf("the child was to be killed, but: %v, %s", err, &stderr)
	}
}

func crash(t *testing.T, lazy bool, rounds int) *ledger {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	path := filepath.Join(t.TempDir(), "leases")
	l := newLedger()
	for range rounds {
		crashRound(t, path, lazy, rng.IntN(4000), l)
		a, err := Open(path, Options{BootID: boot1})
		if err != nil {
			t.Fatal(err)
		}
		l.check(a)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if len(l.problems) > 0 {
			break
		}
	}
	return l
}

// TestCrash kills an agent with many callers at random moments. After each restart no address is held twice, no
// acknowledged lease is lost, and no more is held than was under way.
func TestCrash(t *testing.T) {
	l := crash(t, false, *crashRounds)
	for _, p := range l.problems {
		t.Error(p)
	}
	t.Logf("%d kills, %d steps", *crashRounds, l.steps)
}

// TestCrashTestCanFail: the same test finds the fault it is there for.
func TestCrashTestCanFail(t *testing.T) {
	if l := crash(t, true, 200); len(l.problems) == 0 {
		t.Error("answering before the lease is written went unnoticed")
	}
}
