package ipam

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is what the killed children have acknowledged.
type ledger struct {
	alive      map[string]string // key -> addresses, acknowledged and no release begun
	owner      map[string]string // address -> key, of alive
	duplicates []string          // addresses acknowledged to a key while another has them
	problems   []string          // all else that is not as it must be
	steps      int
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
		l.alive[key] = addrs
		for _, addr := range strings.Fields(addrs) {
			if other, taken := l.owner[addr]; taken {
				l.duplicates = append(l.duplicates, fmt.Sprintf("%s was acknowledged to %s while %s has it", addr, key, other))
			}
			l.owner[addr] = key
		}
	case "R":
		for _, addr := range strings.Fields(l.alive[key]) {
			delete(l.owner, addr)
		}
		delete(l.alive, key)
	}
}

// crashRun is one lease file, the agents killed over it, and what they have acknowledged.
type crashRun struct {
	path    string
	lazy    bool
	rng     *rand.Rand
	ledger  *ledger
	rounds  int
	orphans int
}

func (r *crashRun) failed() bool { return len(r.ledger.duplicates)+len(r.ledger.problems) > 0 }

// round lets a child work and kills it, then looks at what a restarted agent finds, before and after reconciliation.
func (r *crashRun) round(t *testing.T, fill bool) {
	t.Helper()
	r.rounds++
	r.kill(t, r.rng.IntN(4000))
	a, err := Open(r.path, Options{BootID: boot1, Quarantine: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetBlocks(crashBlocks); err != nil {
		t.Fatal(err)
	}
	r.check(a)
	r.reconcile(t, a)
	r.wantExactly(a)
	if fill {
		r.fill(t, a)
		r.wantExactly(a)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// kill starts a child, kills it after so many steps, and reads what it said to the end.
func (r *crashRun) kill(t *testing.T, steps int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+r.path)
	if r.lazy {
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
		r.ledger.line(lines.Text())
	}
	if err := cmd.Wait(); stderr.Len() > 0 || err == nil || ctx.Err() != nil {
		t.Fatalf("the child was to be killed, but: %v, %s", err, &stderr)
	}
}

// check compares what was acknowledged with what a restarted agent finds in the file.
func (r *crashRun) check(a *Allocator) {
	l := r.ledger
	seen := map[string]string{}
	for _, lease := range a.Leases() {
		id, addr := lease.Key.ContainerID, lease.Addr.String()
		if other := seen[addr]; other != "" {
			l.problem("%s is held by %s and %s", addr, other, id)
		}
		seen[addr] = id
		if leases, _ := a.Lookup(lease.Key); len(leases) != families {
			l.problem("%s holds half an allocation: %s", id, text(leases))
		}
	}
	for id, addrs := range l.alive {
		if leases, _ := a.Lookup(testKey(id)); text(leases) != addrs {
			l.problem("lease of %s lost: it has %q, acknowledged was %q", id, text(leases), addrs)
		}
	}
	for _, d := range a.Damaged() {
		l.problem("damaged: %+v", d)
	}
}

// reconcile frees what is held for nobody: allocations that were under way when the agent was killed.
func (r *crashRun) reconcile(t *testing.T, a *Allocator) {
	t.Helper()
	alive := func(key Key) bool { return r.ledger.alive[key.ContainerID] != "" }
	var orphans Orphans
	if early := orphans.Look(heldKeys(a), alive); len(early) > 0 {
		r.ledger.problem("%v taken for dead at the first look", early)
	}
	dead := orphans.Look(heldKeys(a), alive)
	if len(dead) > crashCallers {
		r.ledger.problem("%d orphans are more than the %d callers can have had under way", len(dead), crashCallers)
	}
	for _, key := range dead {
		if _, err := a.Release(key); err != nil {
			t.Fatal(err)
		}
	}
	r.orphans += len(dead)
}

func heldKeys(a *Allocator) []Key {
	var keys []Key
	for _, l := range a.Leases() {
		if l.Addr.Is4() {
			keys = append(keys, l.Key)
		}
	}
	return keys
}

// wantExactly wants what is alive to be held, and all else to be free.
func (r *crashRun) wantExactly(a *Allocator) {
	n := uint64(len(r.ledger.alive))
	for _, u := range a.Usage() {
		if u.Leased != n || u.Quarantined != 0 || u.Free.Uint64() != u.Size.Uint64()-n {
			r.ledger.problem("%s leaks: %d keys are alive, but usage is %+v", u.Block.Prefix, n, u)
		}
	}
	for _, key := range heldKeys(a) {
		if r.ledger.alive[key.ContainerID] == "" {
			r.ledger.problem("%s still holds something", key)
		}
	}
}

// fill leases every address that is left, and takes them back.
func (r *crashRun) fill(t *testing.T, a *Allocator) {
	t.Helper()
	var keys []Key
	given := map[string]bool{}
	for _, l := range a.Leases() {
		given[l.Addr.String()] = true
	}
	for {
		key := testKey(fmt.Sprintf("fill-%d", len(keys)))
		leases, err := a.Allocate(key, Request{})
		if errors.Is(err, ErrExhausted) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
		for _, l := range leases {
			if given[l.Addr.String()] {
				r.ledger.problem("%s was given to %s while it is held", l.Addr, key)
			}
			given[l.Addr.String()] = true
		}
	}
	if want := families * 256; len(given) != want {
		r.ledger.problem("%d addresses of %d can be leased", len(given), want)
	}
	slices.Reverse(keys) // not in the order of their addresses
	for _, key := range keys {
		if _, err := a.Release(key); err != nil {
			t.Fatal(err)
		}
	}
}
