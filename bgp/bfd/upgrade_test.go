package bfd_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// TestUpgrade replaces the binary several times under sessions that are Up, at usual and at the shortest intervals, and looks at
// what the routers have counted. Then a broken binary is put in its place.
func TestUpgrade(t *testing.T) {
	r := newRig(t, usual, "chrt", "--rr", "20")
	r.set(t, all(usual)...)
	r.awaitUp(t, all(usual), usual)
	before, pid := r.downs(t), r.cmd.Process.Pid
	states := mustRefresh(t, r)
	for i := range 5 {
		version := fmt.Sprintf("v%d", i+2)
		install(t, r.binary)
		r.setVersion(t, version)
		if err := r.client.Upgrade(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.awaitVersion(t, version)
		r.awaitUp(t, all(usual), usual)
		r.steady(t, time.Second/2)
		if got := r.downs(t); got != before {
			t.Fatalf("upgrade %d: downs here, at FRR, at BIRD: %v, before %v", i, got, before)
		}
	}
	for i, st := range mustRefresh(t, r) {
		old := states[i]
		if st.LocalDiscriminator != old.LocalDiscriminator || !st.Since.Equal(old.Since) || st.Ups != 1 || st.PacketsIn <= old.PacketsIn {
			t.Errorf("%+v became %+v", old, st)
		}
	}
	for _, name := range []string{"broken", "gone", "fails"} {
		t.Run("new binary "+name, func(t *testing.T) {
			os.Remove(r.binary)
			text := map[string]string{"broken": "\x7fELF not a program", "fails": "#!/bin/sh\necho I know nothing of that >&2\nexit 3\n"}[name]
			if text != "" {
				if err := os.WriteFile(r.binary, []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.client.Upgrade(t.Context()); err == nil || !strings.Contains(err.Error(), "the old one goes on") {
				t.Errorf("err = %v", err)
			}
			if version, p, ok := r.client.Connected(); !ok || version != "v6" || p != pid {
				t.Errorf("connected to %q, %d, %t", version, p, ok)
			}
		})
	}
	r.steady(t, time.Second/2)
	if got := r.downs(t); got != before {
		t.Errorf("downs %v, before %v", got, before)
	}

	// SIGTERM: an end that is planned is told, and the socket is given back.
	r.stopClient()
	r.cmd.Process.Signal(syscall.SIGTERM)
	<-r.ended
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	eventually(t, time.Second, func() error {
		for _, p := range r.frr.peers(t, "") {
			if p.Status != "down" || p.Diagnostic != "neighbor signaled session down" || p.RemoteDiagnostic != "administratively down" {
				return fmt.Errorf("FRR: %+v", p)
			}
		}
		for _, state := range r.bird.states(t) {
			if state != "Down" {
				return fmt.Errorf("BIRD: %v", r.bird.states(t))
			}
		}
		return nil
	})
	if _, err := os.Stat(r.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket: %v", err)
	}
}

// TestUpgradeAtShortestInterval has detection times that the start of a binary does not fit into.
func TestUpgradeAtShortestInterval(t *testing.T) {
	const interval = 2 * bfd.MinInterval
	r := newRig(t, interval, "chrt", "--rr", "20")
	r.set(t, all(interval)...)
	r.awaitUp(t, all(interval), interval)
	before := r.downs(t)
	r.setVersion(t, "v2")
	if err := r.client.Upgrade(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitVersion(t, "v2")
	r.awaitUp(t, all(interval), interval)
	if got := r.downs(t); got != before {
		t.Errorf("downs here, at FRR, at BIRD: %v, before %v", got, before)
	}
}

// TestAgentKilled has an agent's side killed, which the sessions must not notice, and another one find them as they are.
func TestAgentKilled(t *testing.T) {
	r := newRig(t, usual)
	agent := exec.Command("/proc/self/exe")
	agent.Env = append(os.Environ(), clientEnv+"="+r.socket)
	agent.Stderr = os.Stderr
	said, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && lines.Text() != "Up" {
	}
	agent.Process.Kill()
	agent.Wait()
	peer := netip.MustParseAddr("10.1.0.0")
	first := r.status(t, peer, "tor1")
	eventually(t, 10*time.Second, func() error {
		if st := r.status(t, peer, "tor1"); st.PacketsIn < first.PacketsIn+10 {
			return fmt.Errorf("%d packets", st.PacketsIn)
		}
		return nil
	})
	if err := r.client.Set(t.Context(), []bfd.Session{frrSession4(usual)}); err != nil { // the new agent's first word
		t.Fatal(err)
	}
	if st := r.status(t, peer, "tor1"); st.State != bfd.Up || st.Downs != 0 || st.LocalDiscriminator != first.LocalDiscriminator {
		t.Errorf("%+v", st)
	}
	if got := r.frr.downs(t); got != 0 {
		t.Errorf("FRR has counted %d downs", got)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == 0 || r.events[len(r.events)-1].State != bfd.Up {
		t.Errorf("the second client was told %+v", r.events)
	}
}
