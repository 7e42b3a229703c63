package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// RecordedBlock is a block that this host owned when it last knew.
type RecordedBlock struct {
	Prefix   netip.Prefix `json:"prefix"`
	Pool     string       `json:"pool"`
	Source   string       `json:"source"`
	Released bool         `json:"released,omitempty"` // an operator wants it to go when its last lease has ended
}

// blockRecord is the file's content.
type blockRecord struct {
	Version int             `json:"version"`
	Blocks  []RecordedBlock `json:"blocks"`
}

const blockRecordVersion = 1

// LoadBlocks reads the record of a host's blocks. It is what a host goes by while its source of blocks cannot be reached,
// and it knows those that have left the configuration while containers still hold their addresses. A missing file is an
// empty record; one that is not understood is an ErrUnreadable.
func LoadBlocks(path string) ([]RecordedBlock, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of blocks: %w", err)
	}
	blocks, err := decodeBlocks(data)
	if err != nil {
		return nil, fmt.Errorf("record of blocks %s: %w; if no container of this host uses its addresses, move it away", path, err)
	}
	return blocks, nil
}

func decodeBlocks(data []byte) ([]RecordedBlock, error) {
	var r blockRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if r.Version != blockRecordVersion {
		return nil, fmt.Errorf("%w: it has version %d, this program knows version %d", ErrUnreadable, r.Version, blockRecordVersion)
	}
	blocks := make([]Block, len(r.Blocks))
	for i, b := range r.Blocks {
		blocks[i] = Block{Prefix: b.Prefix, Pool: b.Pool, Source: b.Source}
	}
	if err := checkBlocks(blocks); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return r.Blocks, nil
}

// SaveBlocks replaces the record, so that whatever happens one finds the old or the new one, whole. It is synced: unlike
// leases, blocks outlive a crash of the machine.
func SaveBlocks(path string, blocks []RecordedBlock) error {
	data, err := json.MarshalIndent(blockRecord{Version: blockRecordVersion, Blocks: blocks}, "", "  ")
	if err == nil {
		err = ReplaceFile(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("%w: record of blocks: %w", ErrStorage, err)
	}
	return nil
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
