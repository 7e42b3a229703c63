package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestCNIAgentDown stops the agent under a runtime that goes on. What there is keeps working, a DEL is kept for later,
// an ADD waits as long as it may.
func TestCNIAgentDown(t *testing.T) {
	h := newHost(t, block4, block6)
	going, staying, coming := nstest.New(t, "going"), nstest.New(t, "staying"), nstest.New(t, "coming")
	kept := h.add("staying", "eth0", staying, nil)
	before := h.census(going)
	h.add("going", "eth0", going, nil)

	h.stop()
	h.reach(staying, kept...)
	h.do(request{verb: relay.Del, id: "going", netns: going.Path()})
	spooled := filepath.Join(h.spool(), "going@eth0")
	if _, err := os.Stat(spooled); err != nil {
		t.Errorf("the DEL is not in the spool: %v", err)
	}
	if _, err := h.try(request{verb: relay.Status}); err == nil || err.Code != relay.CodeNotAvailable {
		t.Errorf("STATUS without an agent: %v, want code %d", err, relay.CodeNotAvailable)
	}

	const timeout = time.Second
	hurried := h.single(map[string]any{"timeout": timeout.String()})
	began := time.Now()
	_, err := h.try(request{verb: relay.Add, id: "coming", netns: coming.Path(), conf: hurried})
	if took := time.Since(began); err == nil || err.Code != relay.CodeTryAgain || took < timeout/2 || took > timeout+5*time.Second {
		t.Errorf("ADD without an agent: %v after %v, want code %d after %v", err, took, relay.CodeTryAgain, timeout)
	}

	patient := make(chan error, 1)
	go func() {
		_, failure, err := h.shim(request{verb: relay.Add, id: "coming", netns: coming.Path()})
		if failure != nil {
			err = failure
		}
		patient <- err
	}()
	h.start()
	if err := <-patient; err != nil {
		t.Errorf("ADD that waited for the agent: %v", err)
	}
	h.do(request{verb: relay.Del, id: "coming", netns: coming.Path()})
	h.unchanged(before, going)
	h.eventually("the spool is empty", func() error {
		left, err := os.ReadDir(h.spool())
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("it has %v", left)
		}
		return err
	})
	h.reach(staying, kept...)
	if left := h.containers(t.Context()); !slices.Equal(left, []string{"staying"}) {
		t.Errorf("attached are %q, want staying alone", left)
	}
}

// TestCNIAgentKilled: a container keeps its network and its record when the agent dies without a word.
func TestCNIAgentKilled(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	before := h.census(box)
	r := result(t, h.do(request{verb: relay.Add, id: "box", netns: box.Path()}))
	attached := h.census(box)

	h.kill()
	h.reach(box, addresses(t, r)...)
	h.start()
	h.reach(box, addresses(t, r)...)
	h.check("box", "eth0", box, r)
	if again := h.add("box", "eth0", box, nil); !slices.Equal(again, addresses(t, r)) {
		t.Errorf("ADD again gives %v, the first gave %v", again, addresses(t, r))
	}
	h.unchanged(attached, box)
	h.do(request{verb: relay.Del, id: "box", netns: box.Path()})
	h.unchanged(before, box)
}
