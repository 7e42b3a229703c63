// Package notes keeps what neither the lease file nor the kernel records of endpoints, such as names and labels, for the next run
// of the agent. It belongs into the run directory: an endpoint does not outlive the boot, and neither does what is noted
// of it.
package notes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

// Store is a file of notes of one kind, each under a name. The file is a journal of JSON lines, so that a note costs one write; it
// is written anew when most of it is history. Its methods may be called from any goroutine.
type Store[Note any] struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex // guards all below
	file  *os.File
	size  int64 // of what was written whole
	lines int
	live  map[string]Note
}

// line is a note that was made, or with null one that was taken back.
type line[Note any] struct {
	Name string `json:"name"`
	Note *Note  `json:"note"`
}

// slack is how many lines of history a journal may have beside as many as there are notes.
const slack = 4096

// Open reads the notes of an earlier run. What its end cut short is dropped: nobody was told that it was there.
func Open[Note any](path string, log *slog.Logger) (*Store[Note], error) {
	s := &Store[Note]{path: path, log: log, live: make(map[string]Note)}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("notes: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("notes: %w", err)
	}
	for raw := range bytes.Lines(text) {
		var l line[Note]
		if err := json.Unmarshal(raw, &l); err != nil || raw[len(raw)-1] != '\n' {
			log.Warn("a line of notes cannot be read and is dropped", "file", path, "line", string(raw[:min(len(raw), 80)]), "err", err)
			continue
		}
		s.apply(l)
	}
	if err := s.rewrite(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close lets go of the file. The notes stay in it.
func (s *Store[Note]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}

// Put makes a note in place of an earlier one. It is there for the next run when Put returns, whatever ends this one.
func (s *Store[Note]) Put(name string, n Note) error { return s.write(line[Note]{name, &n}) }

// Delete takes a note back; one that is not there is success.
func (s *Store[Note]) Delete(name string) error { return s.write(line[Note]{Name: name}) }

// All returns the notes by name.
func (s *Store[Note]) All() map[string]Note {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.live)
}

func (s *Store[Note]) write(l line[Note]) error {
	text, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("note %s: %w", l.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.live[l.Name]; l.Note == nil && !ok {
		return nil
	}
	if _, err := s.file.WriteAt(append(text, '\n'), s.size); err != nil {
		return fmt.Errorf("note %s: %w", l.Name, errors.Join(err, s.file.Truncate(s.size)))
	}
	s.size += int64(len(text)) + 1
	s.apply(l)
	if s.lines <= 2*len(s.live)+slack {
		return nil
	}
	if err := s.rewrite(); err != nil {
		s.log.Warn("notes are not written anew, the journal grows", "err", err)
		s.lines = 0 // until it has grown as much once more
	}
	return nil
}

func (s *Store[Note]) apply(l line[Note]) {
	s.lines++
	if l.Note == nil {
		delete(s.live, l.Name)
		return
	}
	s.live[l.Name] = *l.Note
}

// rewrite replaces the journal by one without history.
func (s *Store[Note]) rewrite() error {
	var text bytes.Buffer
	for name, n := range s.live {
		l, err := json.Marshal(line[Note]{name, &n})
		if err != nil {
			return fmt.Errorf("note %s: %w", name, err)
		}
		text.Write(append(l, '\n'))
	}
	next := s.path + "~"
	file, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("notes: %w", err)
	}
	_, err = file.Write(text.Bytes())
	if err == nil {
		err = os.Rename(next, s.path)
	}
	if err != nil {
		return fmt.Errorf("notes: %w", errors.Join(err, file.Close()))
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.size, s.lines = file, int64(text.Len()), len(s.live)
	return nil
}
