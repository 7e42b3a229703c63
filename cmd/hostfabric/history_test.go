package main

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
)

// someLedger is the directory of a ledger with a container that came and went, and whose agent is down.
func someLedger(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l, err := history.Open(history.Options{Dir: dir, Host: "h1", BootID: "b", Limits: history.Limits{MaxSize: 1 << 30, MaxAge: 1e5 * time.Hour}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := history.Event{
		Time: at, Kind: history.Attach, Container: strings.Repeat("0123456789abcdef", 4), Interface: "eth0", Owner: "cni/pods", Name: "shop-cart",
		Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.7"), netip.MustParseAddr("fd00::7")}, Labels: map[string]string{"app": "shop"},
		Duration: 1500 * time.Microsecond,
	}
	l.Record(e)
	e.Time, e.Kind = at.Add(time.Hour), history.Detach
	l.Record(e)
	l.Record(history.Event{Time: at.Add(2 * time.Hour), Kind: history.Refuse, Container: "evil\x1b[31m", Error: "no address left", Detail: "attach"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestHistoryCommands(t *testing.T) {
	dir := someLedger(t)
	local := func(hour int) string {
		return time.Date(2026, 3, 1, hour, 30, 0, 0, time.UTC).Local().Format("2006-01-02 15:04:05")
	}
	for _, tc := range []struct {
		name string
		args []string
		want []string // parts of the output, or of the error
		not  string
	}{
		{"address", []string{"history", "10.64.0.7", "--at", "2026-03-01T12:30:00Z"}, []string{"0123456789abcdef", "shop-cart", "10.64.0.7,fd00::7", "detached", "app=shop"}, ""},
		{"other family", []string{"history", "fd00:0::7", "--at", local(12)}, []string{"shop-cart"}, ""},
		{"short ID", []string{"history", "0123456789ab", "--at", local(12)}, []string{"shop-cart"}, ""},
		{"too short", []string{"history", "0123456789a", "--at", local(12)}, []string{"nobody was 0123456789a at "}, ""},
		{"name as JSON", []string{"history", "shop-cart", "--at", local(12), "-o", "json"}, []string{`"end": "detached"`, `"from": "2026-03-01T12:00:00Z"`, `"to": "2026-03-01T13:00:00Z"`}, ""},
		{"gone", []string{"history", "10.64.0.7", "--at", local(13)}, []string{"nobody was 10.64.0.7 at "}, "shop-cart"},
		{"before the ledger", []string{"history", "10.64.0.7", "--at", "2026-02-01"}, []string{"the ledger does not go back so far: it begins at 2026-03-01T12:00:00Z"}, ""},
		{"two ways to ask", []string{"history", "10.64.0.7", "--at", "-1h", "--since", "-2h"}, []string{"--at asks of one time"}, ""},
		{"no subject", []string{"history"}, []string{"want ADDRESS|CONTAINER|NAME, got 0 arguments"}, ""},
		{"no time", []string{"history", "a", "--at", "noon"}, []string{`"noon" is not a time: want 2026-03-01T12:00:00Z`}, ""},
		{"the future", []string{"history", "a", "--at", "10m"}, []string{`"10m" lies in the future: -10m is that long ago`}, ""},
		{"events of a name", []string{"history", "shop-cart"}, []string{"attach ", "detach ", "took=1.5ms", "name=shop-cart"}, "refuse"},
		{"since", []string{"history", "shop-cart", "--since", "2026-03-01T12:30:00Z"}, []string{"detach "}, "attach "},
		{"newest", []string{"history", "shop-cart", "--last", "1"}, []string{"detach ", "these are the newest 1 events"}, "attach "},
		{"no events", []string{"history", "db"}, []string{"no event of db is in the ledger"}, ""},
		{"array", []string{"history", "db", "-o", "json"}, []string{"[]"}, "no event"},
		{"events", []string{"events", "-n", "1"}, []string{`refuse        container="evil\x1b[31m" error="no address left" detail=attach`}, "detach "},
		{"kinds", []string{"events", "--kind", "attach,refuse", "-o", "json"}, []string{`"kind":"attach"`, `"kind":"refuse"`}, "detach"},
		{"no kind", []string{"events", "--kind", "atach"}, []string{`kind "atach": want one of [allocate attach`}, ""},
		{"YAML", []string{"events", "-n", "1", "-o", "yaml"}, []string{"---\n", "kind: refuse\n"}, ""},
		{"info", []string{"ledger", "info"}, []string{"events     3", dir, "segments"}, "dropped"},
		{"follow", []string{"events", "-f"}, []string{"--follow needs the agent"}, ""},
		{"export", []string{"ledger", "export", "--since", "2026-03-01T13:00:00Z"}, []string{`"number":"2"`, `"number":"3"`}, `"number":"1"`},
		{"form", []string{"ledger", "export", "--format", "csv"}, []string{`"csv" is not one of jsonl, parquet`}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := execute(t, append(tc.args, "--dir", dir)...)
			if err != nil {
				out += err.Error()
			}
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("it says\n%s\nwithout %q", out, want)
				}
			}
			if tc.not != "" && strings.Contains(out, tc.not) {
				t.Errorf("it says\n%s\nwith %q", out, tc.not)
			}
		})
	}
}

// TestHistoryOutput: what programs read is JSON, whole or by lines.
func TestHistoryOutput(t *testing.T) {
	dir := someLedger(t)
	out, err := execute(t, "history", "shop-cart", "-o", "json", "--dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	var events []struct{ Kind, Duration string }
	if err := json.Unmarshal([]byte(out), &events); err != nil || len(events) != 2 || events[1].Kind != "detach" || events[1].Duration != "0.001500s" {
		t.Errorf("%v, %v: %s", events, err, out)
	}
	if out, err = execute(t, "ledger", "export", "--dir", dir); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(out) {
		n++
		if !json.Valid([]byte(line)) {
			t.Errorf("not a line of JSON: %s", line)
		}
	}
	if n != 3 {
		t.Errorf("%d lines", n)
	}
	table := filepath.Join(t.TempDir(), "table")
	if _, err := execute(t, "ledger", "export", "--format", "parquet", "-o", table, "--dir", dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(table); err != nil || string(b[:4]) != "PAR1" || string(b[len(b)-4:]) != "PAR1" {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := execute(t, "ledger", "export", "-o", table, "--dir", dir); err == nil || !strings.Contains(err.Error(), "file exists") {
		t.Errorf("written over another file: %v", err)
	}
	if _, err := execute(t, "ledger", "export", "-o", table+"2", "--kind", "none", "--dir", dir); err == nil {
		t.Error("a kind that is not there was exported")
	}
	if _, err := os.Stat(table + "2"); !os.IsNotExist(err) {
		t.Errorf("half an export was left: %v", err)
	}
}

func TestHistoryWithoutAgent(t *testing.T) {
	nobody := filepath.Join(shortDir(t), "none.sock")
	for _, args := range [][]string{{"history", "a", "--at", "-1m"}, {"history", "a"}, {"events", "-f"}, {"ledger", "export"}} {
		_, err := execute(t, append(args, "--socket", nobody)...)
		if err == nil || !strings.Contains(err.Error(), "no agent answers on "+nobody) || !strings.Contains(err.Error(), "--dir DIRECTORY reads the ledger without the agent") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := execute(t, "history", "a", "--at", "-1m", "--dir", nobody); err == nil || !strings.Contains(err.Error(), nobody) || !strings.Contains(err.Error(), "history.dir") {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := execute(t, "events", "--dir", t.TempDir()); err != nil {
		t.Errorf("an empty ledger: %v", err)
	}
}
