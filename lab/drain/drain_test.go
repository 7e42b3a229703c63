// Package drain tests what a fabric feels when a host leaves it on purpose and comes back: nothing.
package drain_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// rig is a rack of two hosts with two containers each.
type rig struct {
	lab    *fabric.Lab
	hosts  *workload.Hosts
	host   fabric.Host // that leaves
	client apiv1.HostfabricClient
	own    []probe.Endpoint // of its containers
	other  probe.Endpoint   // of a container elsewhere
}

func newRig(t *testing.T, kind tor.Kind, racks int) *rig {
	t.Helper()
	shape := fabric.Shape{
		Name: "drn" + string(kind), Dir: filepath.Join(fabric.DefaultDir, "d"), // short: unix sockets live below it
		Racks: racks, Hosts: 2, Containers: 2, Tor: kind,
	}
	lab, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	all := lab.Plan.AllHosts()
	r := &rig{lab: lab, hosts: hosts, host: all[0]}
	var err error
	if r.client, err = r.hosts.Client(r.host.Name); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	containers, err := r.hosts.AttachAll(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		r.own = append(r.own, containers[i].Endpoints[0])
	}
	r.other = containers[len(containers)-1].Endpoints[0]
	return r
}

// command runs a hostfabric command on the host that leaves.
func (r *rig) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	args = append(args, "--socket", r.lab.Plan.SocketPath(r.host.Name, "hostfabric.sock"))
	out, err := exec.CommandContext(t.Context(), programs.agent, args...).CombinedOutput()
	t.Logf("hostfabric %s\n%s", strings.Join(args[:len(args)-2], " "), out)
	return string(out), err
}

// lossless runs do under a stream of 1000 packets a second each way, and fails if one is lost.
func lossless(t *testing.T, what string, a, b probe.Endpoint, do func()) {
	t.Helper()
	stream, err := probe.StartStream(t.Context(), []probe.Pair{{From: a, To: b}, {From: b, To: a}}, probe.StreamOptions{Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	do()
	for _, s := range stream.Stop() {
		t.Logf("%s: %s -> %s: %d packets sent, %d lost, longest silence %s", what, s.Pair.From.Addr, s.Pair.To.Addr, s.Sent, s.Lost, s.LongestGap)
		if s.Lost > 0 || s.Sent == 0 {
			t.Errorf("%s: %d of %d packets lost", what, s.Lost, s.Sent)
		}
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not so within 30 s: %s", what)
		case <-tick.C:
		}
	}
}

// present says whether all ToRs of the host's rack have its block in their kernels.
func (r *rig) present(t *testing.T) bool {
	for _, router := range r.lab.Plan.Racks[0].ToRs {
		have, err := r.lab.Tor(router.Name).KernelPrefixes(t.Context(), r.host.Blocks[0])
		if err != nil || !slices.Contains(have, r.host.Blocks[0]) {
			return false
		}
	}
	return true
}

func (r *rig) status(t *testing.T) *apiv1.GetStatusResponse {
	s, err := r.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
	if err != nil {
		return nil // between two agents
	}
	return s
}

func (r *rig) drained(t *testing.T) bool {
	return strings.Contains(strings.Join(r.status(t).GetProblems(), "\n"), "host is drained since ")
}

// pass lets a disturbance have its effect.
func pass(d time.Duration) { <-time.After(d) }

func TestDrain(t *testing.T) {
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, kind, 2)
			ended := make(chan error, 1)
			var said string
			lossless(t, "while the host drains", r.own[0], r.other, func() {
				go func() {
					var err error
					said, err = r.command(t, "drain", "--reason", "memory replaced", "--deadline", "60s")
					ended <- err
				}()
				eventually(t, "the host waits for traffic", func() bool {
					return strings.Contains(strings.Join(r.status(t).GetProblems(), "\n"), "host is draining since ")
				})
				_, err := r.client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "late", Interface: "eth0", Netns: nstest.New(t, "late").Path()})
				if err == nil || !strings.Contains(err.Error(), "hostfabric undrain") {
					t.Errorf("attach while the host drains: %v", err)
				}
				pass(4 * time.Second)
				select {
				case err := <-ended:
					t.Errorf("the drain did not wait for traffic: %v", err)
				default:
				}
			})
			stopped := time.Now()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			t.Logf("drained %s after the last packet", time.Since(stopped).Round(100*time.Millisecond))
			if !strings.Contains(said, "2 endpoints busy, ") || !strings.HasSuffix(said, "drained: memory replaced (no traffic was left)\n") {
				t.Errorf("it said\n%s", said)
			}
			if r.present(t) || !r.drained(t) || r.status(t).GetPeersEstablished() != 0 {
				t.Errorf("after the drain: %v", r.status(t))
			}
			lossless(t, "inside the drained host", r.own[0], r.own[1], func() { pass(time.Second) })

			if out, err := r.command(t, "undrain"); err != nil || !strings.HasSuffix(out, "serving\n") {
				t.Fatalf("undrain: %v", err)
			}
			lossless(t, "right after undrain", r.own[0], r.other, func() { pass(2 * time.Second) })
			if s := r.status(t); !r.present(t) || !s.GetReady() || s.GetPeersEstablished() != 2 {
				t.Errorf("after undrain: %v", s)
			}
		})
	}
}

// TestDrainedOverRestarts: a drained host stays so whatever dies.
func TestDrainedOverRestarts(t *testing.T) {
	r := newRig(t, tor.FRR, 1)
	if out, err := r.command(t, "drain", "--deadline", "0s"); err != nil || !strings.Contains(out, "drained: host drained") {
		t.Fatal(err)
	}
	speaker := func() int {
		pid, err := supervisor.ListenerPID(r.lab.Plan.SocketPath(r.host.Name, "speaker/gobgp.sock"))
		if err != nil {
			return 0
		}
		return pid
	}
	kill := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	killAgent := func() {
		t.Helper()
		pid, err := r.lab.AgentPID(r.host.Name)
		if err != nil {
			t.Fatal(err)
		}
		kill(pid)
		eventually(t, "the agent has ended", func() bool { _, err := r.lab.AgentPID(r.host.Name); return err != nil })
	}
	stays := func(what string) {
		t.Helper()
		eventually(t, "the agent has its speaker", func() bool { return r.status(t).GetSpeaker().GetConnected() })
		pass(3 * time.Second) // a session takes 1 to 2 s
		if s := r.status(t); !r.drained(t) || s.GetPeersEstablished() != 0 || r.present(t) {
			t.Errorf("after %s: %v", what, s)
		}
	}
	old := speaker()
	kill(old)
	eventually(t, "another speaker runs", func() bool { pid := speaker(); return pid != 0 && pid != old })
	stays("the speaker's death")
	killAgent()
	if err := r.lab.StartAgent(r.host.Name, programs.agent); err != nil {
		t.Fatal(err)
	}
	stays("the agent's death")
	killAgent()
	kill(speaker())
	if err := r.lab.StartAgent(r.host.Name, programs.agent); err != nil {
		t.Fatal(err)
	}
	stays("the death of both")
	if out, err := r.command(t, "undrain"); err != nil || !strings.HasSuffix(out, "serving\n") {
		t.Fatal(fmt.Errorf("undrain: %w", err))
	}
	lossless(t, "right after undrain", r.own[0], r.other, func() { pass(time.Second) })
}

// TestUndrainInTheMiddle changes its mind while traffic flows.
func TestUndrainInTheMiddle(t *testing.T) {
	r := newRig(t, tor.FRR, 2)
	lossless(t, "there and back", r.own[0], r.other, func() {
		ended := make(chan error, 1)
		go func() {
			_, err := r.command(t, "drain")
			ended <- err
		}()
		eventually(t, "the host waits for traffic", func() bool {
			return strings.Contains(strings.Join(r.status(t).GetProblems(), "\n"), "host is draining since ")
		})
		pass(4 * time.Second)
		if out, err := r.command(t, "undrain"); err != nil || !strings.HasSuffix(out, "serving\n") {
			t.Errorf("undrain: %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the drain says that it went well")
		}
		pass(time.Second)
	})
	if s := r.status(t); !s.GetReady() {
		t.Errorf("after undrain: %v", s)
	}
}
