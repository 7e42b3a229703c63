package cni_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// hang is an agent that accepts and never says a word.
func hang(t *testing.T, h host) {
	t.Helper()
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
}

func TestHungAgent(t *testing.T) {
	h := newHost(t)
	hang(t, h)
	short := map[string]any{"timeout": "200ms"}
	start := time.Now()
	shim(t, env("ADD", "c1"), h.conf(short)).wantError(t, 11, "does not answer")
	shim(t, env("CHECK", "c1"), h.conf(short)).wantError(t, 11, "does not answer")
	shim(t, []string{"CNI_COMMAND=STATUS"}, h.conf(short)).wantError(t, 50, "does not answer")
	shim(t, env("DEL", "c1"), h.conf(short)).wantOK(t)
	if took := time.Since(start); took < 800*time.Millisecond || took > 10*time.Second {
		t.Errorf("four times 200 ms took %v", took)
	}
	if !h.spooled(t, "c1") {
		t.Error("the DEL is not in the spool")
	}
}

func TestSlowAttachIsBounded(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	f.set(func() { f.onAttach = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } })
	h.serve(t, f)
	shim(t, env("ADD", "c1"), h.conf(map[string]any{"timeout": "1500ms"})).wantError(t, 11, "did not finish in time")
}

func TestAttachIsCancelledWhenTheRuntimeGivesUp(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	begun, ended := make(chan struct{}), make(chan error, 1)
	f.onAttach = func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	h.serve(t, f)
	cmd := exec.CommandContext(t.Context(), shimPath)
	cmd.Env, cmd.Stdin = env("ADD", "c1"), strings.NewReader(h.conf(nil))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the shim was not killed")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("attach ended with %v", err)
	}
}

// An agent that is restarted in the middle of its work loses no request.
func TestAgentRestartsInTheMiddle(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	shim := func(env []string) chan reply {
		result := make(chan reply, 1)
		go func() { result <- shim(t, env, h.conf(nil)) }()
		return result
	}
	stop := h.serve(t, f)
	(<-shim(env("ADD", "old"))).wantOK(t)

	begun := make(chan struct{}, 2)
	stuck := func(ctx context.Context) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	f.set(func() { f.onAttach, f.onDetach = stuck, stuck })
	add, del := shim(env("ADD", "new")), shim(env("DEL", "old"))
	<-begun
	<-begun
	stop()
	(<-del).wantOK(t)
	f.set(func() { f.onAttach, f.onDetach = nil, nil })
	h.serve(t, f)
	(<-add).wantOK(t)
	eventually(t, "the interrupted DEL is done", func() bool { return !f.has("old") })
	if !f.has("new") {
		t.Error("the interrupted ADD is not done")
	}
}

func TestConcurrent(t *testing.T) {
	h := newHost(t)
	f := newFabric()
	h.serve(t, f)
	var wg sync.WaitGroup
	for i := range 48 {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", i/2) // every container twice at once
			shim(t, env("ADD", id), h.conf(nil)).wantOK(t)
		})
	}
	wg.Wait()
	if f.count() != 24 {
		t.Errorf("%d attached, want 24", f.count())
	}
	for i := range 48 {
		wg.Go(func() { shim(t, env("DEL", fmt.Sprintf("c%d", i/2)), h.conf(nil)).wantOK(t) })
	}
	wg.Wait()
	if f.count() != 0 {
		t.Errorf("%d attached, want none", f.count())
	}
}
