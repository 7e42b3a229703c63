package history_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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

func same(t testing.TB, got []history.Entry, want []history.Event) {
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
		e.Time, got[i].Time = e.Time.UTC(), got[i].Time.UTC()
		if !reflect.DeepEqual(e, got[i].Event) {
			t.Fatalf("event %d, -recorded +read:\n%s", i+1, cmp.Diff(e, got[i].Event, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})))
		}
	}
}

func TestReadsWhatWasRecorded(t *testing.T) {
	for _, pods := range []bool{false, true} {
		t.Run(fmt.Sprintf("pods %t", pods), func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			h := historytest.New(historytest.Options{Seed: 7, Pods: pods})
			want := oddities()
			for range 20_000 {
				want = append(want, h.Next())
			}
			for i, e := range want {
				l.Record(e)
				if i%3000 == 0 {
					flush(t, l)
				}
			}
			flush(t, l)
			same(t, all(t, l), want)
			reader, err := history.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			same(t, all(t, reader), want)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir)
			same(t, all(t, l), want)
			if s := l.Stats(); s.Events != uint64(len(want)) || s.Dropped != 0 || s.Segments != 1 || !s.Newest.Equal(want[len(want)-1].Time.Truncate(time.Microsecond)) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// oddities are events that are like no others.
func oddities() []history.Event {
	at := time.Date(2026, 2, 28, 23, 59, 0, 123456789, time.UTC)
	hex64 := strings.Repeat("0123456789abcdef", 4)
	addr := netip.MustParseAddr
	return []history.Event{
		{Time: at, Kind: history.Start, Detail: "v1"},
		{Time: at, Kind: "a kind of the future"},
		{Time: at, Kind: history.Dropped, Count: 1<<64 - 1, Detail: "all"},
		{Time: at, Kind: history.BlockClaim, Prefix: netip.MustParsePrefix("fd00:64:0:1::/64"), Pool: "gold", Duration: 3 * time.Hour},
		{Time: at, Kind: history.SessionDown, Peer: "fe80::1%eth0", Detail: "hold timer expired"},
		{Time: at, Kind: history.Attach, Container: hex64, Interface: "eth0", Addresses: []netip.Addr{addr("fd00::1"), addr("10.0.0.1"), addr("::ffff:10.0.0.1")}},
		{Time: at, Kind: history.Attach, Container: hex64, Interface: "eth1", Name: hex64, Aliases: []string{"b", "a", "b"}},
		{Time: at, Kind: history.Describe, Container: hex64, Interface: "eth1", Name: "n", Labels: map[string]string{"k": "n", "": "", "K": "ü\n", "u": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}},
		{Time: at, Kind: history.Describe, Container: hex64, Interface: "eth1", Labels: map[string]string{"k": "6BA7B810-9dad-11d1-80b4-00c04fd430c8"}},
		{Time: at, Kind: history.Detach, Container: "ABCDEF0123456789ABCDEF", Interface: "eth0", Owner: "docker/net", Pool: "p"},
		{Time: at, Kind: history.Detach, Container: "ABCDEF0123456789ABCDEF", Interface: "eth0", Owner: "api"},
		{Time: at, Kind: history.Refuse, Container: "c", Error: "no address left", Duration: time.Microsecond},
		{Time: at.Add(500 * time.Millisecond), Kind: history.Refuse},
		{Time: at, Kind: history.Refuse},
	}
}
