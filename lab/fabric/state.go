package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
)

// state is what a lab's directory says of it. It is written before anything is built.
type state struct {
	Plan    Plan
	Agents  bool           // hosts run agents; else they are bare namespaces
	Binary  string         // hostfabric-lab, for embedded routers that are started again
	Builder daemon.Process // the process in Up; a zero PID once it is done
}

// errNoLab says that no lab of this name has left a state file.
var errNoLab = errors.New("no such lab")

func (s state) path() string { return stateFile(s.Plan.Shape) }

func stateFile(s Shape) string { return filepath.Join(s.StateDir(), "state.json") }

// save replaces the file at once: a reader or a crash never meets half of it.
func (s state) save() error {
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("state of lab %s: %w", s.Plan.Name, err)
	}
	tmp := s.path() + ".new"
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		return fmt.Errorf("state of lab %s: %w", s.Plan.Name, err)
	}
	if err := os.Rename(tmp, s.path()); err != nil {
		return fmt.Errorf("state of lab %s: %w", s.Plan.Name, err)
	}
	return nil
}

func loadState(name Shape) (state, error) {
	var s state
	raw, err := os.ReadFile(stateFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("lab %s: %w (start one with `hostfabric-lab up`)", name.Name, errNoLab)
	}
	if err != nil {
		return s, fmt.Errorf("state of lab %s: %w", name.Name, err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("state of lab %s: %w", name.Name, err)
	}
	return s, nil
}
