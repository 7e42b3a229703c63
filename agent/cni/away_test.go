package cni_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

func (h host) spooled(t *testing.T, container string) bool {
	t.Helper()
	has, err := relay.Spool(h.spool).Has(relay.Key{ContainerID: container, IfName: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	return has
}

func (h host) spoolDel(t *testing.T, container string) {
	t.Helper()
	if err := relay.Spool(h.spool).Add(relay.Key{ContainerID: container, IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutAnAgent(t *testing.T) {
	dead := newHost(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // the socket of a killed agent
	l.Close()
	for name, h := range map[string]host{"no socket": newHost(t), "stale socket": dead} {
		t.Run(name, func(t *testing.T) {
			short := map[string]any{"timeout": "300ms"}
			start := time.Now()
			shim(t, env("ADD", "c1"), h.conf(short)).wantError(t, 11, "agent is not running")
			if took := time.Since(start); took < 50*time.Millisecond || took > 5*time.Second {
				t.Errorf("ADD waited %v of 300 ms", took)
			}
			start = time.Now()
			shim(t, env("CHECK", "c1"), h.conf(nil)).wantError(t, 11, h.socket)
			shim(t, []string{"CNI_COMMAND=GC"}, h.conf(nil)).wantError(t, 11, "not running")
			shim(t, []string{"CNI_COMMAND=STATUS"}, h.conf(nil)).wantError(t, 50, "not running")
			shim(t, env("DEL", "c1"), h.conf(nil)).wantOK(t)
			shim(t, env("DEL", "c1", "CNI_NETNS="), h.conf(nil)).wantOK(t)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the others waited %v", took)
			}
			if !h.spooled(t, "c1") {
				t.Error("the DEL is not in the spool")
			}
			shim(t, env("DEL", "a/b"), h.conf(nil)).wantError(t, 4, "CNI_CONTAINERID")
			shim(t, env("DEL", "c1"), "garbage").wantError(t, 6, "JSON")
		})
	}
}

func TestDelThatCannotBeSpooled(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.spool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shim(t, env("DEL", "c1"), h.conf(nil)).wantError(t, 5, h.spool)
}

func TestAddWaitsForTheAgent(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	result := make(chan reply)
	go func() { result <- shim(t, env("ADD", "c1"), h.conf(nil)) }()
	h.serve(t, f)
	r := <-result
	r.wantOK(t)
	if !f.has("c1") {
		t.Error("not attached")
	}
}

func TestAddWaitsForAnAgentThatStarts(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	var asked atomic.Int32
	f.onAttach = func(context.Context) error {
		if asked.Add(1) < 3 {
			return agent.ErrNotReady
		}
		return nil
	}
	h.serve(t, f)
	shim(t, env("ADD", "c1"), h.conf(nil)).wantOK(t)
	f.set(func() { f.onAttach = func(context.Context) error { return agent.ErrNotReady } })
	shim(t, env("ADD", "c2"), h.conf(map[string]any{"timeout": "1500ms"})).wantError(t, 11, "not ready")
}

func TestSpooledDelsAreDoneAtStart(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	stop := h.serve(t, f)
	for _, id := range []string{"c1", "c2"} {
		shim(t, env("ADD", id), h.conf(nil)).wantOK(t)
	}
	stop()
	shim(t, env("DEL", "c1"), h.conf(nil)).wantOK(t)
	if !f.has("c1") || !h.spooled(t, "c1") {
		t.Fatal("the DEL should be waiting")
	}
	h.serve(t, f)
	shim(t, []string{"CNI_COMMAND=STATUS"}, h.conf(nil)).wantOK(t) // answered only after the first drain
	if f.has("c1") || !f.has("c2") || h.spooled(t, "c1") {
		t.Error("the DEL was not done")
	}
}

func TestSpooledDelsAreDoneLater(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	var broken atomic.Bool
	broken.Store(true)
	f.onDetach = func(context.Context) error {
		if broken.Load() {
			return agent.ErrStorage
		}
		return nil
	}
	h.serve(t, f)
	shim(t, env("ADD", "c1"), h.conf(nil)).wantOK(t)
	h.spoolDel(t, "c1") // by a shim that lost the agent just before it came back
	shim(t, env("ADD", "c1"), h.conf(nil)).wantError(t, 5, "spooled DEL")
	broken.Store(false)
	eventually(t, "the DEL is done", func() bool { return !f.has("c1") && !h.spooled(t, "c1") })
}

func TestDelIsSpooledByAnAgentThatIsNotReady(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	stop := h.serve(t, f)
	shim(t, env("ADD", "c1"), h.conf(nil)).wantOK(t)
	for _, failure := range []error{agent.ErrNotReady, context.DeadlineExceeded} {
		f.set(func() { f.onDetach = func(context.Context) error { return failure } })
		shim(t, env("DEL", "c1"), h.conf(nil)).wantOK(t)
	}
	stop()
	if !h.spooled(t, "c1") {
		t.Fatal("not spooled")
	}
	f.set(func() { f.onDetach = nil })
	h.serve(t, f)
	eventually(t, "the DEL is done", func() bool { return !f.has("c1") && !h.spooled(t, "c1") })
}

// A DEL of an earlier life of a container must never take down a later one, however drain and ADD interleave.
func TestSpooledDelNeverHitsALaterAdd(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", c)
			for range 25 {
				h.spoolDel(t, id) // and the drain looks every 10 ms
				shim(t, env("ADD", id), h.conf(nil)).wantOK(t)
				if h.spooled(t, id) {
					t.Errorf("%s: a DEL is left after the ADD", id)
				}
				if !f.has(id) {
					t.Errorf("%s: an older DEL took the interface", id)
				}
			}
		})
	}
	wg.Wait()
	for c := range 4 {
		if !f.has(fmt.Sprintf("c%d", c)) {
			t.Errorf("c%d is gone", c)
		}
	}
}

func TestDelTakesItsOwnSpooledCopyOut(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	h.spoolDel(t, "c1")
	shim(t, env("DEL", "c1"), h.conf(nil)).wantOK(t)
	if h.spooled(t, "c1") {
		t.Error("still there")
	}
}

func TestServeNeedsItsSpool(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.spool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := cni.Serve(t.Context(), l, cni.Options{Endpoints: newFabric(), Spool: h.spool}); err == nil {
		t.Error("served without a spool")
	}
}
