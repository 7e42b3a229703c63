package bgp

import (
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

func TestTakeCrashes(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "gobgp.sock")
	write := func(name, text string, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	write("gobgp.sock.crash.7", "panic: second\n", time.Minute)
	write("gobgp.sock.crash.9", "panic: first\n", time.Hour)
	write("gobgp.sock.crash.8", "", 0)                      // ended in order
	write("gobgp.sock.crash.10", "panic: being written", 0) // runs
	write("gobgp.sock.crash.x", "panic: not ours", 0)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("panic: outside\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "gobgp.sock.crash.11")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "gobgp.sock.crash.12"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := takeCrashes(socket, 10)
	if err != nil {
		t.Fatal(err)
	}
	if want := []meta.Crash{{Reason: "panic: first"}, {Reason: "panic: second"}}; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if last, err := os.ReadFile(filepath.Join(dir, "gobgp.sock.last-crash")); err != nil || string(last) != "panic: second\n" {
		t.Errorf("last report: %q, %v", last, err)
	}
	if got, err := takeCrashes(socket, 10); err != nil || len(got) > 0 {
		t.Errorf("taken twice: %+v, %v", got, err)
	}
	if _, err := takeCrashes(filepath.Join(dir, "none", "gobgp.sock"), 10); err == nil {
		t.Error("a directory that is not there has no error")
	}
}

func TestRecordOfBlame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "blame.json")
	peer := netip.MustParseAddr("fe80::1%up1")
	s := New(Options{BlameFile: file})
	s.want.config = &Config{Peers: []Peer{{Address: peer}, {Address: netip.MustParseAddr("10.0.0.1")}}}
	s.blameFor(meta.Crash{Peer: netip.MustParseAddr("fe80::1")}, nil) // GoBGP may leave the zone out
	list := []PeerStatus{{Address: peer}}
	if s = New(Options{BlameFile: file}); s.Status().Crashes != 1 {
		t.Errorf("%d crashes remembered", s.Status().Crashes)
	}
	s.want.config = &Config{Peers: []Peer{{Address: peer}, {Address: netip.MustParseAddr("10.0.0.1")}}}
	if s.markHeld(list); list[0].State != StateHeld {
		t.Errorf("not remembered: %+v", list[0])
	}
	for _, damaged := range []string{"", "{", `{"peers": {"10.0.0.1": null}}`, `{"peers": {"x": {}}}`, `[]`} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		s := New(Options{BlameFile: file})
		s.want.config = &Config{Peers: []Peer{{Address: netip.MustParseAddr("10.0.0.1")}}}
		if s.markHeld(list[:1]); s.Status().Crashes != 0 {
			t.Errorf("%q: %d crashes", damaged, s.Status().Crashes)
		}
		s.blameFor(meta.Crash{}, nil)
	}
}
