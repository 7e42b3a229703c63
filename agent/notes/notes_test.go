package notes

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

type note struct {
	Name   string
	Labels map[string]string `json:",omitempty"`
}

func open(t testing.TB, path string) *Store[note] {
	t.Helper()
	s, err := Open[note](path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *Store[note], name string, n note) {
	t.Helper()
	if err := s.Put(name, n); err != nil {
		t.Fatal(err)
	}
}

func TestNotesOutliveTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes")
	s := open(t, path)
	web := note{Name: "web\nline", Labels: map[string]string{"app": "shop"}}
	put(t, s, "hf1", note{Name: "first"})
	put(t, s, "hf1", web)
	put(t, s, "hf2", note{Name: "job-7"})
	put(t, s, "hf3", note{Name: "gone"})
	for range 2 {
		if err := s.Delete("hf3"); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]note{"hf1": web, "hf2": {Name: "job-7"}}
	if got := s.All(); !reflect.DeepEqual(got, want) {
		t.Errorf("there are %v", got)
	}
	for range 2 { // what Open has written anew reads the same
		if got := open(t, path).All(); !reflect.DeepEqual(got, want) {
			t.Errorf("read back %v", got)
		}
	}
}

// TestNotesCutShort ends a run after every byte of its last note.
func TestNotesCutShort(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "notes")
	s := open(t, path)
	put(t, s, "hf1", note{Name: "whole"})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "hf2", note{Name: "last"})
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(before); n <= len(after); n++ {
		cut := filepath.Join(dir, fmt.Sprint("cut", n))
		if err := os.WriteFile(cut, after[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, cut)
		put(t, again, "hf3", note{Name: "next"})
		want := map[string]note{"hf1": {Name: "whole"}, "hf3": {Name: "next"}}
		if n == len(after) {
			want["hf2"] = note{Name: "last"}
		}
		if got := open(t, cut).All(); !reflect.DeepEqual(got, want) {
			t.Errorf("after %d of %d bytes: %v", n, len(after), got)
		}
	}
}

func TestJournalStaysShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes")
	s := open(t, path)
	put(t, s, "stays", note{Name: "stays"})
	for i := range 3 * slack {
		put(t, s, "comes", note{Name: fmt.Sprint(i)})
		if err := s.Delete("comes"); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 100*slack {
		t.Errorf("a journal of %d bytes for one note, %v", info.Size(), err)
	}
	if got := open(t, path).All(); !reflect.DeepEqual(got, map[string]note{"stays": {Name: "stays"}}) {
		t.Errorf("read back %v", got)
	}
}

func TestNoteThatCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes")
	s := open(t, path)
	put(t, s, "hf1", note{Name: "whole"})
	s.file.Close()
	if err := s.Put("hf2", note{Name: "lost"}); err == nil {
		t.Error("a note that was not written was called one")
	}
	if got := s.All(); !reflect.DeepEqual(got, map[string]note{"hf1": {Name: "whole"}}) {
		t.Errorf("there are %v", got)
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "notes"))
	for i := 0; b.Loop(); i++ {
		put(b, s, "hf1", note{Name: fmt.Sprint(i)})
	}
}
