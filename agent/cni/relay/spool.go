package relay

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Key names one attachment, as CNI does.
type Key struct{ ContainerID, IfName string }

// FileName is the key as a file name. No container ID holds an '@', so the first one separates.
func (k Key) FileName() string { return k.ContainerID + "@" + k.IfName }

// ParseFileName is the inverse of FileName; ok says whether it names a valid key.
func ParseFileName(name string) (k Key, ok bool) {
	id, iface, found := strings.Cut(name, "@")
	k = Key{id, iface}
	return k, found && ValidateKey(k) == nil
}

// Spool is a directory of DELs that found no agent. Each is an empty file whose name is the key, so that it is
// complete as soon as it exists.
type Spool string

// Add leaves a DEL for the agent. The entry is on disk when it returns; adding it again changes nothing.
func (s Spool) Add(k Key) error {
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path(k), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), s.sync())
}

// Has says whether a DEL of this key waits.
func (s Spool) Has(k Key) (bool, error) {
	_, err := os.Lstat(s.path(k))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Remove takes a DEL out; a missing one is no error. It is not synced: a DEL that comes back with a power cut finds
// no container left to harm.
func (s Spool) Remove(k Key) error {
	if err := os.Remove(s.path(k)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// List gives the waiting keys. Files whose names are no keys are none of ours and are left alone.
func (s Spool) List() ([]Key, error) {
	entries, err := os.ReadDir(string(s))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var keys []Key
	for _, e := range entries {
		if k, ok := ParseFileName(e.Name()); ok && e.Type().IsRegular() {
			keys = append(keys, k)
		}
	}
	return keys, err
}

func (s Spool) path(k Key) string { return filepath.Join(string(s), k.FileName()) }

// sync makes the directory's names durable; the files themselves hold nothing.
func (s Spool) sync() error {
	d, err := os.Open(string(s))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
