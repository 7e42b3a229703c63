// Package notes keeps what neither the lease file nor the kernel records of endpoints, such as names and labels, for the next run
// of the agent. It is a directory of small files below the run directory: an endpoint does not outlive the boot, and
// neither does what is noted of it.
package notes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Store is a directory of notes of one kind, each under a name of its own that can be a file's.
type Store[Note any] struct {
	dir string
	log *slog.Logger
}

const suffix = ".json"

// Open makes the directory if there is none.
func Open[Note any](dir string, log *slog.Logger) (*Store[Note], error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of notes: %w", err)
	}
	return &Store[Note]{dir: dir, log: log}, nil
}

func (s *Store[Note]) path(name string) string { return filepath.Join(s.dir, name+suffix) }

// Put writes a note in place of an earlier one. It is there for the next run when Put returns, whatever ends this one. Of one that
// an end cut short nothing is left: where there was none before it is written in place, for speed, and Load drops it.
func (s *Store[Note]) Put(name string, n Note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("note %s: %w", name, err)
	}
	path := s.path(name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.Write(text)
		return errors.Join(err, f.Close())
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("note %s: %w", name, err)
	}
	if err := os.WriteFile(path+"~", text, 0o600); err != nil {
		return fmt.Errorf("note %s: %w", name, err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		return fmt.Errorf("note %s: %w", name, err)
	}
	return nil
}

// Delete removes a note; one that is not there is success.
func (s *Store[Note]) Delete(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note %s: %w", name, err)
	}
	return nil
}

// Load returns the notes by name, and removes what cannot be read: the end of a run may have cut it short.
func (s *Store[Note]) Load() (map[string]Note, error) {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("directory of notes: %w", err)
	}
	all := make(map[string]Note, len(files))
	for _, f := range files {
		path := filepath.Join(s.dir, f.Name())
		name, ok := strings.CutSuffix(f.Name(), suffix)
		var n Note
		text, err := os.ReadFile(path)
		if err == nil && ok {
			err = json.Unmarshal(text, &n)
		}
		if ok && err == nil {
			all[name] = n
			continue
		}
		s.log.Warn("a note cannot be read and is removed", "file", path, "err", err)
		if err := os.RemoveAll(path); err != nil {
			return nil, fmt.Errorf("directory of notes: %w", err)
		}
	}
	return all, nil
}
