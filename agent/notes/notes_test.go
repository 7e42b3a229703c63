package notes

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

type note struct {
	Name   string
	Labels map[string]string `json:",omitempty"`
}

func open(t *testing.T) *Store[note] {
	t.Helper()
	s, err := Open[note](filepath.Join(t.TempDir(), "notes"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t *testing.T, s *Store[note]) map[string]note {
	t.Helper()
	all, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNotesOutliveTheStore(t *testing.T) {
	s := open(t)
	web := note{Name: "web", Labels: map[string]string{"app": "shop"}}
	for _, n := range []note{{Name: "first"}, web, web} {
		if err := s.Put("hf1", n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put("hf2", note{Name: "job-7"}); err != nil {
		t.Fatal(err)
	}
	again, err := Open[note](s.dir, s.log)
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t, again); !reflect.DeepEqual(got, map[string]note{"hf1": web, "hf2": {Name: "job-7"}}) {
		t.Errorf("read back %v", got)
	}
	for _, link := range []string{"hf1", "hf2", "hf2"} {
		if err := s.Delete(link); err != nil {
			t.Fatal(err)
		}
	}
	if got := load(t, s); len(got) != 0 {
		t.Errorf("after all were taken back: %v", got)
	}
}

func TestNotesCutShortAreDropped(t *testing.T) {
	s := open(t)
	if err := s.Put("hf1", note{Name: "whole"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"hf2.json": `{"Name":"hal`, "hf3.json": "", "hf1.json~": `{"Name":"half`} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := load(t, s); !slices.Equal(slices.Collect(maps.Keys(got)), []string{"hf1"}) || got["hf1"].Name != "whole" {
		t.Errorf("read %v, want hf1 alone", got)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) != 1 {
		t.Errorf("the directory has %v, %v; want one file", files, err)
	}
}
