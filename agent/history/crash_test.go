package history_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
)

var crashRounds = flag.Int("crash.rounds", 20, "how often the crash test kills a writer")

// Environment of the child that is killed.
const (
	crashDir  = "HOSTFABRIC_TEST_LEDGER_DIR"
	crashSeed = "HOSTFABRIC_TEST_LEDGER_SEED"
	crashLazy = "HOSTFABRIC_TEST_LEDGER_LAZY" // acknowledge before flushing: a fault that the test must find
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func crashOptions(dir string, boot int) history.Options {
	o := history.Options{
		Dir: dir, Host: "h1", BootID: fmt.Sprint("boot-", boot), Flush: 2 * time.Millisecond, Sync: 20 * time.Millisecond,
		Limits: history.Limits{MaxSize: 256 << 10, MaxAge: 1e5 * time.Hour}, Log: slog.New(slog.DiscardHandler),
	}
	history.Small(64, 8<<10)(&o)
	return o
}

// numbered is the event with that number, and no other.
func numbered(n uint64) history.Event {
	rng := rand.New(rand.NewPCG(n, 3))
	e := history.Event{Time: noon.Add(time.Duration(n) * time.Millisecond), Kind: history.Attach, Count: n, Container: fmt.Sprintf("%064x", rng.Uint64())}
	if n%500 == 0 {
		e.Time = e.Time.Add(-time.Hour) // the clock goes back, and forward again
	}
	if n%3 == 0 {
		e.Labels = map[string]string{"app": fmt.Sprint(rng.IntN(9))}
	}
	e.Detail = strings.Repeat("x", rng.IntN(50))
	return e
}

// crashChild records until it is killed, and writes the number of the last event to stdout whenever all events up to it are acknowledged.
func crashChild(dir string) error {
	seed, err := strconv.ParseUint(os.Getenv(crashSeed), 10, 64)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	l, err := history.Open(crashOptions(dir, rng.IntN(2)))
	if err != nil {
		return err
	}
	n, err := lastCount(l)
	if err != nil {
		return err
	}
	for {
		for range 1 + rng.IntN(300) {
			n++
			l.Record(numbered(n))
		}
		if os.Getenv(crashLazy) != "" {
			fmt.Println(n)
		}
		if err := l.Flush(context.Background()); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// lastCount is the number that the newest event has.
func lastCount(r history.Reader) (uint64, error) {
	last, err := r.Last(context.Background(), 1, history.Filter{})
	if err != nil || len(last) == 0 {
		return 0, err
	}
	return last[0].Count, nil
}

// TestCrash kills a writer at random moments. After each, a reader and the next writer find all events that were acknowledged and are
// not retired, in their order and as they were, and none that nobody recorded.
func TestCrash(t *testing.T) {
	events, kills, err := crash(t, *crashRounds, false)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d kills, %d events", kills, events)
}

// TestCrashTestCanFail: a writer that acknowledges first is found out.
func TestCrashTestCanFail(t *testing.T) {
	const most = 200
	_, kills, err := crash(t, most, true)
	if err == nil {
		t.Fatalf("acknowledging before anything is written lost nothing in %d kills", most)
	}
	t.Logf("after %d kills: %v", kills, err)
}

func crash(t *testing.T, rounds int, lazy bool) (events uint64, kills int, err error) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	for kills < rounds && err == nil && !t.Failed() {
		acked := crashRound(t, dir, rng, lazy)
		kills++
		if events, err = crashLooked(dir, acked); err != nil {
			err = fmt.Errorf("after kill %d: %w", kills, err)
		}
	}
	return events, kills, err
}

// crashRound runs a child, kills it, and returns what it acknowledged last.
func crashRound(t *testing.T, dir string, rng *rand.Rand, lazy bool) (acked uint64) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s=%d", crashSeed, rng.Uint64()))
	if lazy {
		child.Env = append(child.Env, crashLazy+"=1")
	}
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	kill := func() { _ = child.Process.Kill() }
	timer := time.AfterFunc(time.Minute, kill) // a child that acknowledges nothing
	for first := true; ; first = false {
		line, err := lines.ReadString('\n')
		if err != nil { // what is left of a line was not acknowledged
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		if acked, err = strconv.ParseUint(strings.TrimSpace(line), 10, 64); err != nil {
			t.Errorf("the child says %q", line)
		}
		if first {
			timer.Stop()
			timer = time.AfterFunc(time.Duration(rng.IntN(30_000))*time.Microsecond, kill)
		}
	}
	timer.Stop()
	if err := child.Wait(); err == nil || acked == 0 {
		t.Errorf("the child ended by itself (%v), having acknowledged %d", err, acked)
	}
	return acked
}

// crashLooked looks at what is there, without and with a writer.
func crashLooked(dir string, acked uint64) (events uint64, err error) {
	reader, err := history.OpenDir(dir)
	if err != nil {
		return 0, err
	}
	if _, err := unbroken(reader, acked); err != nil {
		return 0, fmt.Errorf("reader: %w", err)
	}
	l, err := history.Open(crashOptions(dir, 0))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	events, err = unbroken(l, acked)
	if err != nil {
		return 0, fmt.Errorf("writer: %w", err)
	}
	return events, nil
}

// unbroken wants the numbered events one after another, the last at least the acknowledged one.
func unbroken(r history.Reader, acked uint64) (last uint64, err error) {
	var wrong error
	number := uint64(0)
	err = r.Events(context.Background(), history.Filter{}, func(e history.Entry) bool {
		want := numbered(e.Count)
		got := e.Event
		got.Time = got.Time.UTC()
		switch {
		case last != 0 && e.Count != last+1:
			wrong = fmt.Errorf("event %d follows upon %d", e.Count, last)
		case e.Number <= number:
			wrong = fmt.Errorf("number %d follows upon %d", e.Number, number)
		case !reflect.DeepEqual(got, want):
			wrong = fmt.Errorf("event %d is %+v, was recorded as %+v", e.Count, got, want)
		}
		last, number = e.Count, e.Number
		return wrong == nil
	})
	if err == nil {
		err = wrong
	}
	if err == nil && last < acked {
		err = fmt.Errorf("the last event is %d, acknowledged was %d", last, acked)
	}
	return last, err
}
