package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
)

// DrainRecord is what outlives the agent of a drain. The zero value is that of a host that serves.
type DrainRecord struct {
	Version   int        `json:"version"`
	Stage     DrainStage `json:"stage"` // Draining or Drained
	Reason    string     `json:"reason"`
	Since     time.Time  `json:"since"`
	Deadline  time.Time  `json:"deadline"`        // while Draining: the blocks are withdrawn then whatever traffic there is
	UntilBoot string     `json:"until,omitempty"` // the boot with which it ends; empty: it outlives a reboot
}

const drainVersion = 1

// bootIDFile has the id that the kernel drew when it started.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

func bootID() (string, error) {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// LoadDrain reads how an earlier run of the agent left the host: drained, in the middle of it, or serving. A drain that was to
// last until the next boot is forgotten with that.
func LoadDrain(path string) (DrainRecord, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return DrainRecord{}, nil
	}
	if err != nil {
		return DrainRecord{}, fmt.Errorf("record of a drain: %w", err)
	}
	var r DrainRecord
	if err := json.Unmarshal(data, &r); err != nil || r.Version != drainVersion || r.Stage != Draining && r.Stage != Drained {
		return DrainRecord{}, fmt.Errorf("record of a drain %s is not understood (%w): remove it if this host is to serve", path,
			errors.Join(err, fmt.Errorf("version %d, stage %q", r.Version, r.Stage)))
	}
	if r.UntilBoot == "" {
		return r, nil
	}
	boot, err := bootID()
	if err != nil {
		return DrainRecord{}, err
	}
	if r.UntilBoot != boot {
		return DrainRecord{}, nil
	}
	return r, nil
}

// save makes the record outlive the agent, or has the host forget it where it says that it serves.
func (r DrainRecord) save(path string) error {
	if r.Stage == Serving {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: record of a drain: %w", ErrStorage, err)
		}
		return nil
	}
	r.Version = drainVersion
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = ipam.ReplaceFile(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("%w: record of a drain: %w", ErrStorage, err)
	}
	return nil
}

// Sessions are the sessions that a host starts with.
func (r DrainRecord) Sessions() Sessions {
	switch r.Stage {
	case Draining:
		return Sessions{Leave: bgp.LeaveAll}
	case Drained:
		return Sessions{Leave: bgp.LeaveAll, Shutdown: r.Reason}
	}
	return Sessions{}
}
