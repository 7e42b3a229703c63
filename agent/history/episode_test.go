package history_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// script records lines such as "0s attach c1 10.0.0.1 web", times after noon, and flushes.
func script(t *testing.T, l *history.Ledger, lines ...string) {
	t.Helper()
	for _, line := range lines {
		f := strings.Fields(line)
		after, err := time.ParseDuration(f[0])
		if err != nil {
			t.Fatal(err)
		}
		e := history.Event{Time: noon.Add(after), Kind: history.Kind(f[1])}
		if len(f) > 2 {
			e.Container, e.Interface = f[2], "eth0"
		}
		if len(f) > 3 {
			e.Addresses = []netip.Addr{netip.MustParseAddr(f[3])}
		}
		if len(f) > 4 {
			e.Name, e.Labels = f[4], map[string]string{"app": f[4]}
		}
		if e.Kind == history.Refuse {
			e.Error = "no"
		}
		l.Record(e)
	}
	flush(t, l)
}

// asked is what the ledger says of a subject so long after noon.
func asked(t *testing.T, r history.Reader, subject, after string) string {
	t.Helper()
	d, err := time.ParseDuration(after)
	if err != nil {
		t.Fatal(err)
	}
	f := history.Filter{Subject: subject}
	if a, err := netip.ParseAddr(subject); err == nil {
		f = history.Filter{Address: a}
	}
	found, err := r.At(context.Background(), noon.Add(d), f)
	if errors.Is(err, history.ErrBefore) {
		return "before"
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range found {
		when := func(at time.Time) string {
			if at.IsZero() {
				return "?"
			}
			return at.Sub(noon).String()
		}
		text := fmt.Sprintf("%s %s %s-%s", e.Container, e.Name, when(e.From), when(e.To))
		if e.End != history.Lives {
			text += " " + string(e.End)
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func TestWhoWasWhere(t *testing.T) {
	for _, tc := range []struct {
		name   string
		script []string
		asked  map[string]string // "SUBJECT TIME"
	}{
		{"one after the other", []string{
			"0s start", "1s allocate c1 10.0.0.1", "2s attach c1 10.0.0.1 web", "5s detach c1 10.0.0.1 web", "6s release c1 10.0.0.1",
			"10s allocate c2 10.0.0.1", "11s attach c2 10.0.0.1 db",
		}, map[string]string{
			"10.0.0.1 0s": "", "10.0.0.1 1s": "c1 web 2s-5s detached", "10.0.0.1 4s": "c1 web 2s-5s detached", "10.0.0.1 5s": "",
			"10.0.0.1 8s": "", "10.0.0.1 10500ms": "c2 db 11s-?", "10.0.0.1 60s": "c2 db 11s-?", "10.0.0.2 4s": "",
			"c1 4s": "c1 web 2s-5s detached", "c1 7s": "", "web 4s": "c1 web 2s-5s detached", "web 12s": "", "db 12s": "c2 db 11s-?",
			"c1 -1s": "before",
		}},
		{"the agent restarts", []string{
			"0s start", "1s attach c1 10.0.0.1 web", "2s stop", "10s start", "20s detach c1 10.0.0.1 web", "30s stop", "40s start", "41s attach c2 10.0.0.1 db",
			"42s start",
		}, map[string]string{"10.0.0.1 5s": "c1 web 1s-20s detached", "web 15s": "c1 web 1s-20s detached", "10.0.0.1 50s": "c2 db 41s-?"}},
		{"refused", []string{
			"1s allocate c1 10.0.0.1", "2s release c1 10.0.0.1", "2s refuse c1 10.0.0.1", "3s allocate c2 10.0.0.2", "4s refuse c2 10.0.0.2",
			"5s attach c3 10.0.0.3 web", "6s refuse c4 10.0.0.3", "7s refuse c3 10.0.0.3",
		}, map[string]string{
			"10.0.0.1 1500ms": "c1  ?-2s refused", "10.0.0.1 3s": "", "10.0.0.2 3500ms": "c2  ?-4s refused", "10.0.0.2 5s": "",
			"10.0.0.3 8s": "c3 web 5s-?",
		}},
		{"called otherwise", []string{
			"1s attach c1 10.0.0.1 web", "5s describe c1 10.0.0.1 front", "9s detach c1 10.0.0.1 front",
		}, map[string]string{
			"10.0.0.1 2s": "c1 web 1s-9s detached", "10.0.0.1 6s": "c1 front 1s-9s detached", "web 2s": "c1 web 1s-9s detached", "web 6s": "",
			"front 6s": "c1 front 1s-9s detached", "front 2s": "", "c1 2s": "c1 web 1s-9s detached",
		}},
		{"shared by name", []string{
			"1s attach c1 10.0.0.1 web", "2s attach c2 10.0.0.2 web", "3s detach c1 10.0.0.1 web",
		}, map[string]string{"web 1500ms": "c1 web 1s-3s detached", "web 2s": "c1 web 1s-3s detached; c2 web 2s-?", "web 3s": "c2 web 2s-?"}},
		{"only the end is known", []string{"0s start", "5s detach c1 10.0.0.1 web", "6s release c1 10.0.0.1", "7s release c9 10.0.0.9"},
			map[string]string{"10.0.0.1 2s": "c1 web ?-5s detached", "web 2s": "c1 web ?-5s detached", "10.0.0.1 5s": "", "10.0.0.9 2s": ""}},
		{"the end is lost", []string{"1s attach c1 10.0.0.1 web", "2s dropped", "9s attach c2 10.0.0.1 db"},
			map[string]string{"10.0.0.1 5s": "c1 web 1s-9s replaced", "10.0.0.1 9s": "c2 db 9s-?"}},
		{"the beginning is lost", []string{"1s attach c1 10.0.0.1 web", "2s detach c1 10.0.0.1 web", "3s dropped", "9s detach c1 10.0.0.2 web"},
			map[string]string{"c1 5s": "", "c1 1s": "c1 web 1s-2s detached"}},
		{"attached again", []string{"1s attach c1 10.0.0.1 web", "4s attach c1 10.0.0.1 web", "6s detach c1 10.0.0.1 web"},
			map[string]string{"10.0.0.1 2s": "c1 web 1s-4s replaced", "10.0.0.1 5s": "c1 web 4s-6s detached"}},
		{"the clock is set back", []string{
			"100s attach c1 10.0.0.1 web", "110s detach c1 10.0.0.1 web", "111s attach c9 10.0.0.9 x", "90s attach c2 10.0.0.1 db", "104s detach c2 10.0.0.1 db", "120s start",
		}, map[string]string{
			"10.0.0.1 102s": "c1 web 100s-110s detached; c2 db 90s-104s detached", "10.0.0.1 95s": "c2 db 90s-104s detached", "10.0.0.1 106s": "c1 web 100s-110s detached",
			"c2 102s": "c2 db 90s-104s detached",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			script(t, l, tc.script...)
			dirReader, err := history.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			check := func(where string, r history.Reader) {
				t.Helper()
				for question, want := range tc.asked {
					subject, at, _ := strings.Cut(question, " ")
					want = strings.NewReplacer("100s", "1m40s", "110s", "1m50s", "104s", "1m44s", "90s", "1m30s").Replace(want)
					if got := asked(t, r, subject, at); got != want {
						t.Errorf("%s: %s: %q, want %q", where, question, got, want)
					}
				}
			}
			check("ledger", l)
			check("directory", dirReader)
			l.Close()
			check("closed", dirReader)
			check("again", open(t, dir))
		})
	}
}

func TestRebootEndsWhatLived(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	script(t, l, "0s start", "1s attach c1 10.0.0.1 web", "2s attach c2 10.0.0.2 db")
	l.Close()
	l = open(t, dir, func(o *history.Options) { o.BootID = "boot-2" })
	script(t, l, "60s start", "61s detach c1 10.0.0.1 web", "62s attach c3 10.0.0.2 new")
	for question, want := range map[string]string{
		"10.0.0.1 30s": "c1 web 1s-1m0s rebooted", "10.0.0.1 60500ms": "", "web 30s": "c1 web 1s-1m0s rebooted", "10.0.0.2 30s": "c2 db 2s-1m0s rebooted",
		"10.0.0.2 61s": "", "10.0.0.2 63s": "c3 new 1m2s-?",
	} {
		subject, at, _ := strings.Cut(question, " ")
		if got := asked(t, l, subject, at); got != want {
			t.Errorf("%s: %q, want %q", question, got, want)
		}
	}
}
