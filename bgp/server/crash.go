package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	"github.com/osrg/gobgp/v3/pkg/log"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
	"github.com/hostfabric/hostfabric/bgp/internal/private"
)

// reportCrashes has the runtime write the report of a panic or a fatal error to a file beside the socket, where the agent
// looks for it. Files of processes that did not crash are empty, and removed here.
func reportCrashes(d *private.SocketDir) error {
	if err := removeEmptyReports(d); err != nil {
		return err
	}
	f, err := os.OpenFile(d.At(meta.CrashFile(d.Base(), os.Getpid())), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the file for crash reports: %w", err)
	}
	defer f.Close() // SetCrashOutput duplicates it
	// The runtime reads the variable anew when it changes. go.mod does not know this setting.
	if err := os.Setenv("GODEBUG", strings.TrimPrefix(os.Getenv("GODEBUG")+",tracebacklabels=1", ",")); err != nil {
		return fmt.Errorf("have crash reports name peers: %w", err)
	}
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return fmt.Errorf("set the file for crash reports: %w", err)
	}
	return nil
}

func removeEmptyReports(d *private.SocketDir) error {
	entries, err := os.ReadDir(d.At("."))
	if err != nil {
		return fmt.Errorf("read the socket's directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if _, ok := meta.CrashPID(d.Base(), e.Name()); !ok {
			continue
		}
		if st, err := e.Info(); err == nil && st.Size() == 0 {
			errs = append(errs, os.Remove(d.At(e.Name())))
		}
	}
	return errors.Join(errs...)
}

// labelPeer puts the peer's name on the goroutine that GoBGP is about to start for it: GoBGP's event loop tells of a session's
// change of state right before it starts the goroutine that reads from the peer in that state, and a goroutine inherits the
// labels of its starter. The report of a crash shows them.
func labelPeer(msg string, fields log.Fields) {
	if msg != stateChanged {
		return
	}
	name := strings.TrimSpace(fmt.Sprint(fields["Key"]))
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(meta.PeerLabel, name)))
}
