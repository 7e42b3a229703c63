package main

import (
	"log/slog"
	"os"

	"github.com/hostfabric/hostfabric/bgp"
)

// warmMarker is a file that says that a speaker of this boot has announced: after a crash of agent and speaker together
// the peers may still hold our routes, and the new speaker must say that it is restarting. It is in the run directory,
// which does not survive a reboot.
type warmMarker string

func (m warmMarker) warm() bool {
	_, err := os.Stat(string(m))
	return err == nil
}

// set leaves the mark once the speaker has everything we want.
func (m warmMarker) set(s bgp.Status, log *slog.Logger) {
	if !s.Synced || m.warm() {
		return
	}
	if err := os.WriteFile(string(m), nil, 0o600); err != nil {
		log.Warn("a restart of agent and speaker together may be visible to peers", "err", err)
	}
}
