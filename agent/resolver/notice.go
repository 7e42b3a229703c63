package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Notice is what containers are told at present. Its methods may be called from any goroutine.
type Notice struct {
	path string

	mu           sync.Mutex // guards what follows, and the file
	servers      []netip.Addr
	domain, zone string
	written      bool // the file has it
}

// NewNotice tells of nobody to ask until SetServers does, and leaves the file as it is until then. The domain and the zone are SetZone's.
func NewNotice(path, domain, zone string) *Notice {
	return &Notice{path: path, domain: domain, zone: zone}
}

// Resolver is what containers are to be told.
func (n *Notice) Resolver() Resolver {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.resolver()
}

func (n *Notice) resolver() Resolver {
	if n.domain == "" {
		return Resolver{}
	}
	return New(slices.Clone(n.servers), n.domain, n.zone)
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

// SetServers tells of these from now on. Where the file cannot be written, Resolver tells of them all the same.
func (n *Notice) SetServers(servers []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers = servers
	return n.update()
}

// SetZone tells of the domain that this host's containers are named in and the zone around it; of nothing if there are none. Its error
// is that of SetServers.
func (n *Notice) SetZone(domain, zone string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.domain, n.zone = domain, zone
	return n.update()
}

func (n *Notice) update() error {
	r := n.resolver()
	err := write(n.path, r)
	n.written = err == nil && len(r.Servers) > 0
	if err != nil {
		err = fmt.Errorf("resolv.conf of containers: %w", err)
	}
	return err
}

func write(path string, r Resolver) error {
	if len(r.Servers) == 0 {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text := r.conf()
	before, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return create(path, text)
	case err != nil:
		return err
	case strings.TrimRight(string(before), "\n")+"\n" == text:
		return nil
	}
	return overwrite(path, text, len(before))
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
