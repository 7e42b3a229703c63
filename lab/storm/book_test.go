package storm

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// book is what all callers together were told: who has which address, how their requests ended, and what was not true.
type book struct {
	mu       sync.Mutex // guards all below
	holders  map[netip.Addr]string
	attached map[string]attachment // by container
	outcomes map[string]int
	lies     []string
}

func newBook() *book {
	return &book{holders: make(map[netip.Addr]string), attached: make(map[string]attachment), outcomes: make(map[string]int)}
}

// granted notes what a container was told that it has. Nobody else may have been told the same and not have begun to give it back.
func (b *book) granted(id string, t attachment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(t.addrs) == 0 {
		b.lies = append(b.lies, id+" was attached without an address")
	}
	for _, addr := range t.addrs {
		if other, taken := b.holders[addr]; taken && other != id {
			b.lies = append(b.lies, fmt.Sprintf("%s was given to %s and to %s", addr, other, id))
		}
		b.holders[addr] = id
	}
	b.attached[id] = t
}

// returning notes that a container is about to give back all that it has.
func (b *book) returning(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.attached, id)
	maps.DeleteFunc(b.holders, func(_ netip.Addr, holder string) bool { return holder == id })
}

func (b *book) count(outcome string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes[outcome]++
}

func (b *book) lie(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lies = append(b.lies, fmt.Sprintf(format, args...))
}

// standing are the containers that are attached now.
func (b *book) standing() map[string]attachment {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.attached)
}

// String is one line of how often requests ended how.
func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var parts []string
	for _, outcome := range slices.Sorted(maps.Keys(b.outcomes)) {
		parts = append(parts, fmt.Sprintf("%s: %d", outcome, b.outcomes[outcome]))
	}
	return strings.Join(parts, ", ")
}
