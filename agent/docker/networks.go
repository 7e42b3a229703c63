package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/hostfabric/hostfabric/ipam"
)

// network is what is to be known of one that Docker made: it tells this once, and not again when it or the agent is restarted.
type network struct {
	MTU int `json:"mtu,omitempty"` // bytes; 0: the agent's choice
}

// networks is the record of them, by ID.
type networks struct {
	file string

	mu  sync.Mutex // guards all, and the order of writes to the file
	all map[string]network
}

// networksFile is the record as it is written.
type networksFile struct {
	Version  int                `json:"version"`
	Networks map[string]network `json:"networks"`
}

const networksVersion = 1

func loadNetworks(file string) (*networks, error) {
	n := &networks{file: file, all: make(map[string]network)}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return nil, fmt.Errorf("docker: record of networks: %w", err)
	}
	r := networksFile{Networks: n.all}
	if err := json.Unmarshal(data, &r); err != nil || r.Version != networksVersion {
		return nil, fmt.Errorf("docker: record of networks %s is not understood (%w): remove it, and it is made anew from Docker's API", file,
			errors.Join(err, fmt.Errorf("version %d", r.Version)))
	}
	if r.Networks != nil {
		n.all = r.Networks
	}
	return n, nil
}

func (n *networks) get(id string) (network, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nw, ok := n.all[id]
	return nw, ok
}

func (n *networks) ids() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := make([]string, 0, len(n.all))
	for id := range n.all {
		ids = append(ids, id)
	}
	return ids
}

// put records a network before anybody is told of it.
func (n *networks) put(id string, nw network) error {
	return n.change(id, func() { n.all[id] = nw })
}

// drop forgets a network; one that is not known is success.
func (n *networks) drop(id string) error {
	return n.change(id, func() { delete(n.all, id) })
}

// change writes what is after do, which is about one network, and undoes it if that fails.
func (n *networks) change(id string, do func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before, was := n.all[id]
	do()
	after, is := n.all[id]
	if was == is && before == after {
		return nil
	}
	data, err := json.MarshalIndent(networksFile{networksVersion, n.all}, "", "  ")
	if err == nil {
		err = ipam.ReplaceFile(n.file, append(data, '\n'))
	}
	if err == nil {
		return nil
	}
	if delete(n.all, id); was {
		n.all[id] = before
	}
	return fmt.Errorf("record of networks: %w", err)
}
