package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Notice is what containers are told at present. Its methods may be called from any goroutine.
type Notice struct {
	path string

	mu      sync.Mutex // guards what follows, and the file
	now     Resolver
	written bool // the file has it
}

// NewNotice tells of nobody to ask, until Post does. The file is for containers to mount; it is there while there is a resolver.
func NewNotice(path string) *Notice { return &Notice{path: path} }

// Resolver is what was posted last.
func (n *Notice) Resolver() Resolver {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// File is the path of the resolv.conf, and empty while there is none.
func (n *Notice) File() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.written {
		return ""
	}
	return n.path
}

// Post tells of r from now on. Where the file cannot be written, Resolver tells of it all the same.
func (n *Notice) Post(r Resolver) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = Resolver{Servers: slices.Clone(r.Servers), Search: slices.Clone(r.Search)}
	err := n.write()
	n.written = err == nil && len(r.Servers) > 0
	if err != nil {
		err = fmt.Errorf("resolv.conf of containers: %w", err)
	}
	return err
}

func (n *Notice) write() error {
	if len(n.now.Servers) == 0 {
		if err := os.Remove(n.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text := n.now.conf()
	before, err := os.ReadFile(n.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return create(n.path, text)
	case err != nil:
		return err
	case strings.TrimRight(string(before), "\n")+"\n" == text:
		return nil
	}
	return overwrite(n.path, text, len(before))
}

// create makes the file under another name first: nobody finds half of it.
func create(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chmod(fresh, 0o644), os.Rename(fresh, path)) // whatever the umask
}

// overwrite changes the file in place: who has it bind-mounted has the file and not its name, and would keep an old one. It takes one
// write, which empty lines make long enough to leave nothing of the old text.
func overwrite(path, text string, length int) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if len(text) < length {
		text += strings.Repeat("\n", length-len(text))
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
