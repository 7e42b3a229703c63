package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// Record is what a host remembers of the blocks it owns.
type Record struct {
	Version int             `json:"version"`
	Blocks  []RecordedBlock `json:"blocks"`
	Retired bool            `json:"retired,omitempty"` // an operator wants all blocks back: none is claimed while these last
}

// RecordedBlock is a block that this host owned when it last knew. One that is opening may contain others.
type RecordedBlock struct {
	Prefix   netip.Prefix `json:"prefix"`
	Pool     string       `json:"pool"`
	Source   string       `json:"source"`
	Opening  bool         `json:"opening,omitempty"`  // nothing was leased from it yet
	Lost     bool         `json:"lost,omitempty"`     // another host has claimed it while containers of this one live in it
	Released bool         `json:"released,omitempty"` // it goes for good when its last lease has ended
}

const recordVersion = 1

// LoadRecord reads the record of a host's blocks. It is what a host goes by while its source of blocks cannot be reached,
// and it knows those that have left the configuration while containers still hold their addresses. A missing file is an
// empty record; one that is not understood is an ErrUnreadable.
func LoadRecord(path string) (Record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("record of blocks: %w", err)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("record of blocks %s: %w; if no container of this host uses its addresses, move it away", path, err)
	}
	return r, nil
}

func decodeRecord(data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if r.Version != recordVersion {
		return Record{}, fmt.Errorf("%w: it has version %d, this program knows version %d", ErrUnreadable, r.Version, recordVersion)
	}
	for _, b := range r.Blocks {
		if err := checkBlocks([]Block{{Prefix: b.Prefix, Pool: b.Pool, Source: b.Source}}); err != nil {
			return Record{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
	}
	return r, nil
}

// Save replaces the record, so that whatever happens one finds the old or the new one, whole. It is synced: unlike
// leases, blocks outlive a crash of the machine.
func (r Record) Save(path string) error {
	r.Version = recordVersion
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = ReplaceFile(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("%w: record of blocks: %w", ErrStorage, err)
	}
	return nil
}

// Equal says whether both remember the same.
func (r Record) Equal(o Record) bool {
	return r.Retired == o.Retired && slices.Equal(r.Blocks, o.Blocks)
}

// ReplaceFile writes a file so that whatever happens one finds the old content or the new one, whole and on disk.
func ReplaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
