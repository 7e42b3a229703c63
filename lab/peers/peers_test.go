// Package peers_test tries sessions by interface against FRR and BIRD: what they carry, and how soon they come up.
package peers_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// rig is a rack of two hosts that are cabled to their routers without addresses.
type rig struct {
	lab        *fabric.Lab
	hosts      *workload.Hosts
	containers []workload.Container
	victim     fabric.Host
}

func newRig(t *testing.T, kind tor.Kind) *rig {
	t.Helper()
	shape := fabric.Shape{
		Name: "unn" + string(kind), Dir: filepath.Join(fabric.DefaultDir, "p"), // short: unix sockets live below it
		Racks: 1, Hosts: 2, Containers: 1, Tor: kind, IPv6: true, Unnumbered: true,
	}
	lab, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	r := &rig{lab: lab, hosts: hosts, victim: lab.Plan.AllHosts()[0]}
	return r
}

// peers are the victim's, nil while its agent does not answer.
func (r *rig) peers(t *testing.T) []*apiv1.Peer {
	t.Helper()
	client, err := r.hosts.Client(r.victim.Name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	resp, err := client.ListPeers(ctx, &apiv1.ListPeersRequest{})
	if err != nil {
		return nil // between two agents
	}
	return resp.GetPeers()
}

func up(p *apiv1.Peer) bool { return p.GetUptime() != nil }

// within waits for a condition and returns how long it took.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s", limit, what)
		case <-tick.C:
		}
	}
	return time.Since(start).Round(10 * time.Millisecond)
}

func (r *rig) allUp(t *testing.T) func() bool {
	return func() bool {
		n := 0
		for _, p := range r.peers(t) {
			if up(p) {
				n++
			}
		}
		return n == 2
	}
}

// peerOn is the session on one of the victim's links.
func (r *rig) peerOn(t *testing.T, link string) *apiv1.Peer {
	for _, p := range r.peers(t) {
		if p.GetInterface() == link {
			return p
		}
	}
	return nil
}

func TestUnnumbered(t *testing.T) {
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, kind)
			within(t, 20*time.Second, "sessions up", r.allUp(t))
			for _, p := range r.peers(t) {
				if !strings.HasPrefix(p.GetAddress(), "fe80::") || p.GetAsn() != 64513 && p.GetAsn() != 64514 {
					t.Errorf("peer %s on %s: AS %d, want a link-local address and the router's AS", p.GetAddress(), p.GetInterface(), p.GetAsn())
				}
			}
			r.traffic(t)
			r.restarts(t)
			r.coldStart(t)
			r.routerRestarts(t)
			r.routerReplaced(t)
		})
	}
}

// traffic goes between containers of both hosts, in both families. Nothing else on the way has an address.
func (r *rig) traffic(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.containers, err = r.hosts.AttachAll(ctx, nil); err != nil {
		t.Fatal(err)
	}
	var all []probe.Endpoint
	for _, c := range r.containers {
		all = append(all, c.Endpoints...)
	}
	report, err := probe.Ping(ctx, probe.AllToAll(all, func(e probe.Endpoint) string { return e.Name }), probe.PingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if report.Sent == 0 || report.Lost > 0 {
		t.Errorf("%d of %d pings lost: %v", report.Lost, report.Sent, report.Failed)
	}
	t.Logf("%d pings, median %s", report.Sent, report.Median)
}

// restarts kills the speaker, and agent and speaker together, under traffic of both families: nothing is lost, for the
// new ones find the routers before they have forgotten us.
func (r *rig) restarts(t *testing.T) {
	t.Helper()
	for what, both := range map[string]bool{"speaker": false, "agent and speaker": true} {
		a, b := r.containers[0].Endpoints, r.containers[1].Endpoints
		var pairs []probe.Pair
		for i := range a {
			pairs = append(pairs, probe.Pair{From: a[i], To: b[i]}, probe.Pair{From: b[i], To: a[i]})
		}
		stream, err := probe.StartStream(t.Context(), pairs, probe.StreamOptions{Rate: 1000})
		if err != nil {
			t.Fatal(err)
		}
		speaker := r.speaker(t)
		if both {
			r.kill(t, r.agent(t))
		}
		r.kill(t, speaker)
		if both {
			within(t, 5*time.Second, "agent gone", func() bool { return r.peers(t) == nil })
			if err := r.lab.StartAgent(r.victim.Name, programs.agent); err != nil {
				t.Fatal(err)
			}
		}
		took := within(t, 30*time.Second, "sessions up", func() bool {
			pid, err := supervisor.ListenerPID(r.speakerSocket())
			return err == nil && pid != speaker && r.allUp(t)() && r.settled(t)
		})
		var sent, lost uint64
		for _, s := range stream.Stop() {
			sent, lost = sent+s.Sent, lost+s.Lost
		}
		t.Logf("%s killed: sessions up and settled after %s, %d of %d packets lost", what, took, lost, sent)
		if lost > 0 || sent == 0 {
			t.Errorf("%s killed: %d of %d packets lost", what, lost, sent)
		}
	}
}

// settled reports whether the victim announces to both its routers and has routes from them.
func (r *rig) settled(t *testing.T) bool {
	for _, p := range r.peers(t) {
		if p.GetPrefixesAdvertised() == 0 || p.GetPrefixesAccepted() == 0 {
			return false
		}
	}
	return true
}

func (r *rig) speakerSocket() string {
	return r.lab.Plan.SocketPath(r.victim.Name, "speaker/gobgp.sock")
}

func (r *rig) speaker(t *testing.T) int {
	t.Helper()
	pid, err := supervisor.ListenerPID(r.speakerSocket())
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func (r *rig) agent(t *testing.T) int {
	t.Helper()
	pid, err := r.lab.AgentPID(r.victim.Name)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func (r *rig) kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// coldStart starts agent and speaker on a host whose routers wait.
func (r *rig) coldStart(t *testing.T) {
	t.Helper()
	r.kill(t, r.agent(t))
	r.kill(t, r.speaker(t))
	within(t, 5*time.Second, "agent gone", func() bool { return r.peers(t) == nil })
	// Not a restart: that takes its time on purpose, see bgp.
	if err := os.Remove(r.lab.Plan.SocketPath(r.victim.Name, "announced")); err != nil {
		t.Fatal(err)
	}
	if err := r.lab.StartAgent(r.victim.Name, programs.agent); err != nil {
		t.Fatal(err)
	}
	one := within(t, 20*time.Second, "first session up", func() bool { return r.anyUp(t) })
	both := one + within(t, 20*time.Second, "sessions up", r.allUp(t))
	t.Logf("sessions up after the start of the agent: first %s, both %s", one, both)
}

func (r *rig) anyUp(t *testing.T) bool {
	for _, p := range r.peers(t) {
		if up(p) {
			return true
		}
	}
	return false
}

// routerRestarts stops and starts the daemons of a router, whose link stays up.
func (r *rig) routerRestarts(t *testing.T) {
	t.Helper()
	link := r.victim.Links[0]
	router := r.lab.Tor(link.Peer)
	if err := router.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "session down", func() bool { return !up(r.peerOn(t, link.Name)) })
	begin := time.Now()
	if err := r.restart(t, link.Peer); err != nil {
		t.Fatal(err)
	}
	answers := time.Since(begin).Round(10 * time.Millisecond)
	took := within(t, 20*time.Second, "session up again", func() bool { return up(r.peerOn(t, link.Name)) })
	t.Logf("session up %s after the router's daemons answered, which took them %s", took, answers)
}

func (r *rig) restart(t *testing.T, name string) error {
	t.Helper()
	driver, err := tor.New(r.lab.Plan.Tor, tor.Options{Binary: programs.lab})
	if err != nil {
		return err
	}
	for _, router := range r.lab.Plan.Routers() {
		if router.Name == name {
			_, err = driver.Start(t.Context(), r.lab.Plan.TorNode(router))
		}
	}
	return err
}

// routerReplaced gives the router's end of a link another address, as another router in its place would have.
func (r *rig) routerReplaced(t *testing.T) {
	t.Helper()
	link := r.victim.Links[0]
	before := r.peerOn(t, link.Name).GetAddress()
	ns := r.lab.Plan.Racks[0].ToRs[0].NS
	for _, args := range [][]string{
		{"link", "set", link.PeerLink, "down"}, {"link", "set", link.PeerLink, "address", "02:00:00:00:99:01"}, {"link", "set", link.PeerLink, "up"},
	} {
		if out, err := ns.Output(t.Context(), "ip", args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	took := within(t, 30*time.Second, "session with the new address", func() bool {
		p := r.peerOn(t, link.Name)
		return up(p) && p.GetAddress() != before
	})
	t.Logf("router followed from %s to %s in %s", before, r.peerOn(t, link.Name).GetAddress(), took)
}
