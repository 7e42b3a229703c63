package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/binaries"
)

// TestSpeakerNewerThanTheAgent: the package is upgraded, the agent not restarted yet, and the speaker ends. What is started in its
// place is all there is: an agent that ended it for its version would never have a session again.
func TestSpeakerNewerThanTheAgent(t *testing.T) {
	newer, cleanup, err := binaries.Build(t.Context(), "hostfabric", "hfr2-newer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cleanup)
	own := t.TempDir()
	if err := os.Link(filepath.Join(bin, "hostfabric"), filepath.Join(own, "hostfabric")); err != nil {
		t.Fatal(err)
	}
	shared := bin
	bin = own
	t.Cleanup(func() { bin = shared })
	h := startHost(t, "hfr2bin", func(h *host) { h.write("blocks: [10.64.0.0/28]\n") })
	speaker := func() *apiv1.SpeakerStatus {
		s, err := h.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return s.GetSpeaker()
	}
	if err := errors.Join(os.Rename(newer, filepath.Join(own, "hostfabric")), syscall.Kill(int(speaker().GetPid()), syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	h.eventually("a speaker of the newer version", func() error {
		if s := speaker(); !s.GetConnected() || s.GetVersion() != "hfr2-newer" {
			return fmt.Errorf("speaker is %v", s)
		}
		return nil
	})
	pid, began := speaker().GetPid(), time.Now()
	h.eventually("it lives for some seconds", func() error {
		if s := speaker(); s.GetPid() != pid {
			t.Fatalf("speaker process %d was replaced by %d after %s", pid, s.GetPid(), time.Since(began))
		}
		if lived := time.Since(began); lived < 4*time.Second {
			return fmt.Errorf("it lives for %s", lived)
		}
		return nil
	})
}
