package history_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestFullDisk has the ledger's file system run full: those who record go on, what does not fit the buffer is counted, and when there is
// room again all that was kept is written, with a word of what was not.
func TestFullDisk(t *testing.T) {
	nstest.RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := open(t, dir, history.Small(256, 64<<10), history.Narrow(4096), func(o *history.Options) { o.Flush = time.Millisecond })
	h := historytest.New(historytest.Options{Seed: 2})
	recorded, slowest := uint64(0), time.Duration(0)
	record := func() {
		began := time.Now()
		l.Record(h.Next())
		slowest = max(slowest, time.Since(began))
		recorded++
	}
	for l.Flush(t.Context()) == nil {
		for range 500 {
			record()
		}
	}
	for l.Stats().Dropped < 1000 {
		record()
	}
	full := l.Stats()
	if !strings.Contains(full.Failing, "no space left on device") {
		t.Errorf("what is wrong: %q", full.Failing)
	}
	if err := l.Flush(t.Context()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("flushed: %v", err)
	}
	t.Logf("%d recorded, the slowest in %s; %+v", recorded, slowest, full)
	before := all(t, l)
	if len(before) == 0 {
		t.Error("nothing can be read while the disk is full")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	record()
	flush(t, l)
	if s := l.Stats(); s.Failing != "" || s.Buffered != 0 {
		t.Errorf("after there was room: %+v", s)
	}
	// What was kept is what was recorded first, then a word of what was dropped, then what came later.
	again := historytest.New(historytest.Options{Seed: 2})
	kept, dropped := uint64(0), uint64(0)
	for _, e := range all(t, l) {
		if e.Kind == history.Dropped {
			dropped += e.Count
			if !strings.Contains(e.Detail, "no space left on device") {
				t.Errorf("dropped, it says: %q", e.Detail)
			}
			for range e.Count {
				again.Next()
			}
			continue
		}
		kept++
		want := again.Next()
		want.Time, want.Duration = want.Time.Truncate(time.Microsecond), want.Duration.Truncate(time.Microsecond)
		if e.Time = e.Time.UTC(); !reflect.DeepEqual(e.Event, want) {
			t.Fatalf("event %d is %+v, want %+v", e.Number, e.Event, want)
		}
	}
	if kept+dropped != recorded || dropped == 0 || dropped != l.Stats().Dropped {
		t.Errorf("%d recorded, %d kept and %d dropped; %+v", recorded, kept, dropped, l.Stats())
	}
}

var damageRounds = flag.Int("damage.rounds", 40, "how often the damage test damages a file")

// TestDamage flips bytes in segments: an answer is without the damaged part and says so, and has nothing that was not recorded.
func TestDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	l := open(t, dir, history.Small(128, 8<<10))
	h := historytest.New(historytest.Options{Seed: 4})
	var want []history.Event
	for range 2000 {
		e := h.Next()
		l.Record(e)
		e.Time, e.Duration = e.Time.Truncate(time.Microsecond), e.Duration.Truncate(time.Microsecond)
		want = append(want, e)
	}
	flush(t, l)
	l.Close()
	paths, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d segments, %v", len(paths), err)
	}
	for round := range *damageRounds {
		path := paths[rng.IntN(len(paths))]
		if round%5 == 0 {
			path = filepath.Join(dir, "tail")
		}
		restore := damage(t, rng, path)
		damageLooked(t, dir, path, want)
		restore()
	}
	if got, err := eventsOf(dir); err != nil || len(got) != len(want) {
		t.Errorf("undamaged: %d events, %v", len(got), err)
	}
}

func eventsOf(dir string) ([]history.Entry, error) {
	r, err := history.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	var got []history.Entry
	err = r.Events(context.Background(), history.Filter{}, func(e history.Entry) bool { got = append(got, e); return true })
	return got, err
}

// damage changes some bytes of a file, or cuts it off. The returned function restores it.
func damage(t *testing.T, rng *rand.Rand, path string) (restore func()) {
	t.Helper()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte(nil), good...)
	switch rng.IntN(4) {
	case 0:
		bad = bad[:rng.IntN(len(bad))]
	case 1: // a stretch of zeros, as a machine that crashes leaves
		at := rng.IntN(len(bad))
		clear(bad[at:min(len(bad), at+4096)])
	default:
		for range 1 + rng.IntN(3) {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
	}
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write(bad)
	return func() { write(good) }
}

func damageLooked(t *testing.T, dir, path string, want []history.Event) {
	t.Helper()
	got, err := eventsOf(dir)
	var d *history.DamageError
	if err != nil && !errors.As(err, &d) {
		t.Errorf("%s damaged: %v", path, err)
	}
	if d != nil && !strings.Contains(d.Error(), path) {
		t.Errorf("%s damaged, it says: %v", path, d)
	}
	if len(got) < len(want) && d == nil && filepath.Base(path) != "tail" && !cutShort(path) {
		t.Errorf("%s damaged: %d of %d events, and no word", path, len(got), len(want))
	}
	for _, e := range got {
		if e.Number == 0 || e.Number > uint64(len(want)) {
			t.Fatalf("%s damaged: event %d was not recorded", path, e.Number)
		}
		if e.Time = e.Time.UTC(); !reflect.DeepEqual(e.Event, want[e.Number-1]) {
			t.Fatalf("%s damaged: event %d is %+v, was recorded as %+v", path, e.Number, e.Event, want[e.Number-1])
		}
	}
	r, err := history.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range want[len(want)/2:][:3] {
		if _, err := r.At(context.Background(), e.Time, history.Filter{Address: e.Addresses[0]}); err != nil && !errors.As(err, &d) {
			t.Errorf("%s damaged: at: %v", path, err)
		}
	}
}

// cutShort tells that the newest segment ends before its footer does: then it looks as if its writer had been killed.
func cutShort(path string) bool {
	if all, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.seg")); err != nil || path != all[len(all)-1] {
		return false
	}
	b, err := os.ReadFile(path)
	return err == nil && (len(b) < 16 || string(b[len(b)-16:len(b)-8]) != "HFFOOTER")
}

// TestTornTail cuts the tail at each of its last bytes: what is whole is there, and the next writer goes on behind it.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var want []history.Event
	record := func(l *history.Ledger, n uint64) {
		e := numbered(n)
		l.Record(e)
		want = append(want, e)
		flush(t, l)
	}
	record(l, 1)
	record(l, 2)
	path := filepath.Join(dir, "tail")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record(l, 3)
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(before); n <= len(after); n += 1 + (n-len(before))/16*7 {
		cut := filepath.Join(t.TempDir(), "ledger")
		if err := os.Mkdir(cut, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cut, "tail"), after[:n], 0o640); err != nil {
			t.Fatal(err)
		}
		l := open(t, cut)
		whole := 2
		if n == len(after) {
			whole = 3
		}
		l.Record(numbered(9))
		flush(t, l)
		same(t, all(t, l), append(append([]history.Event(nil), want[:whole]...), numbered(9)))
		l.Close()
		same(t, all(t, open(t, cut)), append(append([]history.Event(nil), want[:whole]...), numbered(9)))
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := history.Open(history.Options{Dir: dir, BootID: "b"})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another process writes it") {
		t.Errorf("a second writer: %v", err)
	}
}

// TestReaderBesideWriter reads the directory while it is written: events follow one another without a gap.
func TestReaderBesideWriter(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, history.Small(64, 4<<10), func(o *history.Options) { o.Flush = time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	written := make(chan uint64)
	go func() {
		n := uint64(0)
		for ctx.Err() == nil {
			for range 20 {
				n++
				l.Record(numbered(n))
			}
			if err := l.Flush(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		}
		written <- n
	}()
	looks := 0
	for ctx.Err() == nil {
		r, err := history.OpenDir(dir)
		if err == nil {
			_, err = unbroken(r, 0)
		}
		if err != nil {
			t.Error(err)
			break
		}
		looks++
	}
	cancel()
	n := <-written
	t.Logf("%d looks at %d events", looks, n)
}

func TestRetentionBySize(t *testing.T) {
	l := open(t, t.TempDir(), history.Small(64, 8<<10), func(o *history.Options) { o.Limits.MaxSize = 100 << 10 })
	h := historytest.New(historytest.Options{Seed: 1})
	for range 20 {
		for range 1000 {
			l.Record(h.Next())
		}
		flush(t, l)
		if s := l.Stats(); s.Size > 120<<10 { // the tail comes and goes
			t.Fatalf("%+v", s)
		}
	}
	if s := l.Stats(); s.Size < 80<<10 || s.Recorded != 20_000 || s.Events > 10_000 {
		t.Errorf("%+v", s)
	}
	got := all(t, l)
	for i, e := range got {
		if e.Number != got[0].Number+uint64(i) {
			t.Fatalf("number %d follows upon %d", e.Number, got[i-1].Number)
		}
	}
	if got[len(got)-1].Number != 20_000 {
		t.Errorf("the newest is %d", got[len(got)-1].Number)
	}
}

func TestRetentionByAge(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, history.Small(16, 512))
	start := time.Now().Add(-100 * time.Hour)
	for i := range 1000 {
		l.Record(history.Event{Time: start.Add(time.Duration(i) * 6 * time.Minute), Kind: history.Attach, Container: fmt.Sprint("c", i)})
	}
	flush(t, l)
	if s := l.Stats(); s.Events != 1000 {
		t.Fatalf("%+v", s)
	}
	l.SetLimits(history.Limits{MaxSize: 1 << 30, MaxAge: 50 * time.Hour})
	flush(t, l)
	s := l.Stats()
	if oldest := time.Since(s.Oldest); oldest < 50*time.Hour || oldest > 55*time.Hour {
		t.Errorf("the oldest is %s old, with a limit of 50h: %+v", oldest, s)
	}
	if _, err := l.At(t.Context(), time.Now().Add(-60*time.Hour), history.Filter{Container: "c1"}); !errors.Is(err, history.ErrBefore) {
		t.Errorf("asked of a time that is retired: %v", err)
	}
}

// TestQuietHost: the few events of a host where little happens do not wait for a full block for longer than they are to be kept.
func TestQuietHost(t *testing.T) {
	l := open(t, t.TempDir())
	l.Record(history.Event{Time: time.Now().Add(-100 * time.Hour), Kind: history.Start})
	flush(t, l)
	if s := l.Stats(); s.Segments != 0 || s.Events != 1 {
		t.Errorf("%+v", s)
	}
	l.SetLimits(history.Limits{MaxSize: 1 << 30, MaxAge: 200 * time.Hour})
	flush(t, l)
	if s := l.Stats(); s.Segments != 1 || s.Events != 1 {
		t.Errorf("%+v", s)
	}
}

// TestFollow: who follows hears everything once and in order, however slow, and whatever was there before.
func TestFollow(t *testing.T) {
	l := open(t, t.TempDir(), history.Small(64, 8<<10), func(o *history.Options) { o.Flush = time.Millisecond })
	const n = 2000
	for i := uint64(1); i <= n/2; i++ {
		l.Record(numbered(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	heard := make(chan error, 1)
	go func() {
		next := uint64(300)
		heard <- l.Follow(ctx, history.Filter{After: next - 1}, func(e history.Entry) bool {
			if e.Count != next || e.Number != next {
				t.Errorf("event %d, number %d, want %d", e.Count, e.Number, next)
			}
			next++
			return next <= n && !t.Failed()
		})
	}()
	for i := uint64(n/2 + 1); i <= n; i++ {
		l.Record(numbered(i))
		if i%97 == 0 {
			flush(t, l)
		}
	}
	if err := <-heard; err != nil || ctx.Err() != nil {
		t.Error(err, ctx.Err())
	}
	stopped := make(chan error, 1)
	go func() { stopped <- l.Follow(ctx, history.Filter{}, func(history.Entry) bool { return true }) }()
	l.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
