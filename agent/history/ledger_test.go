package history_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"net/netip"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
)

func open(t testing.TB, dir string, change ...func(*history.Options)) *history.Ledger {
	t.Helper()
	o := history.Options{
		Dir: dir, Host: "h1", BootID: "boot-1", Flush: time.Hour, Limits: history.Limits{MaxSize: 1 << 30, MaxAge: 1e6 * time.Hour},
		Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&o)
	}
	l, err := history.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func flush(t testing.TB, l *history.Ledger) {
	t.Helper()
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func all(t testing.TB, r history.Reader) []history.Entry {
	t.Helper()
	var out []history.Entry
	if err := r.Events(context.Background(), history.Filter{}, func(e history.Entry) bool { out = append(out, e); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, got []history.Entry, want []history.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i, e := range want {
		e.Time = e.Time.Truncate(time.Microsecond)
		e.Duration = e.Duration.Truncate(time.Microsecond)
		if got[i].Number != uint64(i+1) {
			t.Fatalf("event %d has number %d", i+1, got[i].Number)
		}
		if diff := cmp.Diff(e, got[i].Event, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatalf("event %d, -recorded +read:\n%s", i+1, diff)
		}
	}
}

func TestReadsWhatWasRecorded(t *testing.T) {
	for _, pods := range []bool{false, true} {
		t.Run(fmt.Sprint(pods), func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			h := historytest.New(historytest.Options{Seed: 7, Pods: pods})
			var want []history.Event
			for i := range 50_000 {
				e := h.Next()
				want = append(want, e)
				l.Record(e)
				if i%5000 == 0 {
					flush(t, l)
				}
			}
			flush(t, l)
			same(t, all(t, l), want)
			t.Logf("%+v", l.Stats())
			s := l.Stats()
			t.Logf("%.2f B/event", float64(s.Size)/float64(s.Events))
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir)
			same(t, all(t, l), want)
		})
	}
}
