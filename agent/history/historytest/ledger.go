// Package historytest has a ledger for tests, which keeps what it is told as text.
package historytest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hostfabric/hostfabric/agent/history"
)

// Ledger is safe for concurrent use. The zero value is empty.
type Ledger struct {
	mu     sync.Mutex
	events []history.Event
}

// Record implements agent.Ledger.
func (l *Ledger) Record(e history.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// Events are those since the last call of Story.
func (l *Ledger) Events() []history.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// Story is what was told since the last time, a line an event; those of kinds only, if any are given.
func (l *Ledger) Story(kinds ...history.Kind) string {
	l.mu.Lock()
	events := l.events
	l.events = nil
	l.mu.Unlock()
	var b strings.Builder
	for _, e := range events {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			b.WriteString(Text(e) + "\n")
		}
	}
	return b.String()
}

// Text is an event without what differs from run to run: its time, and how long it took.
func Text(e history.Event) string {
	parts := []string{string(e.Kind)}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if e.Container != "" {
		add("%s/%s", e.Container, e.Interface)
	}
	if e.Owner != "" {
		add("by %s", e.Owner)
	}
	if e.Addresses != nil {
		add("%v", e.Addresses)
	}
	if e.Prefix.IsValid() {
		add("%s", e.Prefix)
	}
	if e.Pool != "" {
		add("of %s", e.Pool)
	}
	if e.Peer != "" {
		add("%s", e.Peer)
	}
	if e.Name != "" || len(e.Aliases) > 0 {
		add("named %s", strings.Join(append([]string{e.Name}, e.Aliases...), " "))
	}
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		add("%s=%s", key, e.Labels[key])
	}
	if e.Count > 0 {
		add("%d times", e.Count)
	}
	if e.Error != "" {
		add("error %q", e.Error)
	}
	if e.Detail != "" {
		add("(%s)", e.Detail)
	}
	return strings.Join(parts, " ")
}
