// Package restart tests what a fabric feels when a host's agent or speaker dies: nothing.
package restart_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// rig is a rack of two hosts with traffic between a container on each.
type rig struct {
	lab        *fabric.Lab
	hosts      *workload.Hosts
	containers []workload.Container
	victim     fabric.Host // whose processes are killed
}

func newRig(t *testing.T, kind tor.Kind) *rig { return newRigOf(t, fabric.Shape{Tor: kind}) }

func newRigOf(t *testing.T, shape fabric.Shape) *rig {
	t.Helper()
	nstest.RequireRoot(t)
	shape.Name, shape.Dir = "rst"+string(shape.Tor), filepath.Join(fabric.DefaultDir, "r") // short: unix sockets live below it
	shape.Racks, shape.Hosts, shape.Containers = 1, 2, 2
	lab, err := fabric.Up(t.Context(), fabric.Options{Shape: shape, Agent: programs.agent, Binary: programs.lab}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fabric.Down(context.Background(), lab.Plan.Shape); err != nil {
			t.Error(err)
		}
	})
	r := &rig{lab: lab, victim: lab.Plan.AllHosts()[0]}
	if r.hosts, err = workload.Dial(lab); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.hosts.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if r.containers, err = r.hosts.AttachAll(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// flows go between the first containers of both hosts, both ways.
func (r *rig) flows() []probe.Pair {
	a, b := r.containers[0].Endpoints[0], r.containers[len(r.containers)-1].Endpoints[0]
	return []probe.Pair{{From: a, To: b}, {From: b, To: a}}
}

// watch polls every ToR's kernel for the victim's block and returns a function that stops and tells when it was absent.
func (r *rig) watch(t *testing.T) (stop func() (polls, absent int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var polls, absent int
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, router := range r.lab.Plan.Racks[0].ToRs {
				have, err := r.lab.Tor(router.Name).KernelPrefixes(ctx, r.victim.Blocks[0])
				if ctx.Err() != nil {
					return
				}
				polls++
				if err != nil || !slices.Contains(have, r.victim.Blocks[0]) {
					absent++
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() (int, int) { cancel(); wg.Wait(); return polls, absent }
}

// unharmed runs disturb under traffic and fails if a packet is lost or a ToR's kernel loses the victim's block.
func (r *rig) unharmed(t *testing.T, disturb func()) {
	t.Helper()
	stop := r.watch(t)
	stream, err := probe.StartStream(t.Context(), r.flows(), probe.StreamOptions{Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	disturb()
	reports := stream.Stop()
	polls, absent := stop()
	for _, s := range reports {
		t.Logf("%s -> %s: %d packets sent, %d lost, longest silence %s", s.Pair.From.Addr, s.Pair.To.Addr, s.Sent, s.Lost, s.LongestGap)
		if s.Lost > 0 || s.Sent == 0 {
			t.Errorf("%d of %d packets lost", s.Lost, s.Sent)
		}
	}
	t.Logf("block %s polled %d times in the ToRs' kernels, absent %d times", r.victim.Blocks[0], polls, absent)
	if absent > 0 || polls == 0 {
		t.Errorf("block %s absent from a ToR's kernel in %d of %d polls", r.victim.Blocks[0], absent, polls)
	}
}

func (r *rig) status(t *testing.T) *apiv1.GetStatusResponse {
	t.Helper()
	client, err := r.hosts.Client(r.victim.Name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	s, err := client.GetStatus(ctx, &apiv1.GetStatusRequest{})
	if err != nil {
		return nil // between two agents
	}
	return s
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

func (r *rig) ready(t *testing.T) func() bool {
	return func() bool {
		s := r.status(t)
		return s.GetReady() && s.GetPeersEstablished() == 2 && slices.Equal(s.GetAnnounced(), []string{r.victim.Blocks[0].String()})
	}
}

// uptimes are the ages of the victim's sessions.
func (r *rig) sessionAges(t *testing.T) []time.Duration {
	t.Helper()
	client, err := r.hosts.Client(r.victim.Name)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.ListPeers(t.Context(), &apiv1.ListPeersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var ages []time.Duration
	for _, p := range resp.GetPeers() {
		ages = append(ages, p.GetUptime().AsDuration())
	}
	return ages
}

func (r *rig) speakerPID(t *testing.T) int {
	t.Helper()
	pid, err := supervisor.ListenerPID(r.lab.Plan.SocketPath(r.victim.Name, "speaker/gobgp.sock"))
	if err != nil {
		return 0
	}
	return pid
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// TestAgentDies kills the agent: the speaker and its sessions go on, and a new agent takes everything over.
func TestAgentDies(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			r := newRig(t, tor.FRR)
			before, speaker := r.sessionAges(t), r.speakerPID(t)
			r.unharmed(t, func() {
				pid, err := r.lab.AgentPID(r.victim.Name)
				if err != nil {
					t.Fatal(err)
				}
				kill(t, pid, sig)
				eventually(t, "the agent has ended", func() bool { _, err := r.lab.AgentPID(r.victim.Name); return err != nil })
				if err := r.lab.StartAgent(r.victim.Name, programs.agent); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the new agent is ready", r.ready(t))
			})
			if got := r.speakerPID(t); got != speaker {
				t.Errorf("the speaker is process %d, it was %d", got, speaker)
			}
			for i, age := range r.sessionAges(t) {
				if age < before[i] {
					t.Errorf("session %d is %s old, it was %s before", i, age, before[i])
				}
			}
			s := r.status(t)
			if s.GetEndpoints() != 2 || s.GetLeases() != 2 {
				t.Errorf("%d endpoints and %d leases after the restart, want 2 and 2", s.GetEndpoints(), s.GetLeases())
			}
		})
	}
}

// TestSpeakerDies kills the speaker: the agent starts another and applies everything again, under graceful restart, and
// serves attaches meanwhile.
func TestSpeakerDies(t *testing.T) {
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, kind)
			client, err := r.hosts.Client(r.victim.Name)
			if err != nil {
				t.Fatal(err)
			}
			ns := nstest.New(t, "box")
			speaker := r.speakerPID(t)
			r.unharmed(t, func() {
				kill(t, speaker, syscall.SIGKILL)
				if _, err := client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "meanwhile", Interface: "eth0", Netns: ns.Path()}); err != nil {
					t.Errorf("attach while the speaker is away: %v", err)
				}
				if _, err := client.Detach(t.Context(), &apiv1.DetachRequest{ContainerId: "meanwhile", Interface: "eth0"}); err != nil {
					t.Errorf("detach while the speaker is away: %v", err)
				}
				eventually(t, "another speaker runs", func() bool { pid := r.speakerPID(t); return pid != 0 && pid != speaker })
				eventually(t, "the sessions are back", r.ready(t))
			})
			other := r.lab.Plan.AllHosts()[1].Blocks[0]
			if !slices.ContainsFunc(r.fabricRoutes(t), func(p netip.Prefix) bool { return p == other }) {
				t.Errorf("the route to %s is gone", other)
			}
		})
	}
}

// TestBothDie kills agent and speaker together: the next agent knows that peers may still hold this host's routes.
func TestBothDie(t *testing.T) {
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, kind)
			r.unharmed(t, func() {
				pid, err := r.lab.AgentPID(r.victim.Name)
				if err != nil {
					t.Fatal(err)
				}
				kill(t, pid, syscall.SIGKILL)
				kill(t, r.speakerPID(t), syscall.SIGKILL)
				eventually(t, "the agent has ended", func() bool { _, err := r.lab.AgentPID(r.victim.Name); return err != nil })
				if err := r.lab.StartAgent(r.victim.Name, programs.agent); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the sessions are back", r.ready(t))
			})
		})
	}
}

// TestUplinkGetsItsAddressLate takes the IPv6 addresses of the uplinks away while an agent starts: the status says that
// the IPv6 block reaches nobody, and it is announced once they are back.
func TestUplinkGetsItsAddressLate(t *testing.T) {
	r := newRigOf(t, fabric.Shape{Tor: tor.FRR, IPv6: true})
	block := r.victim.Blocks[1]
	addresses := func(verb string) {
		for _, l := range r.victim.Links {
			if out, err := r.victim.NS.Output(t.Context(), "ip", "address", verb, l.Addr6.String(), "dev", l.Name, "nodad"); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	present := func() bool {
		for _, router := range r.lab.Plan.Racks[0].ToRs {
			have, err := r.lab.Tor(router.Name).KernelPrefixes(t.Context(), block)
			if err != nil || !slices.Contains(have, block) {
				return false
			}
		}
		return true
	}
	addresses("del")
	pid, err := r.lab.AgentPID(r.victim.Name)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, pid, syscall.SIGKILL)
	eventually(t, "the agent has ended", func() bool { _, err := r.lab.AgentPID(r.victim.Name); return err != nil })
	if err := r.lab.StartAgent(r.victim.Name, programs.agent); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the status says that the IPv6 block reaches nobody", func() bool {
		return strings.Contains(strings.Join(r.status(t).GetProblems(), "\n"), block.String()+" is announced to no peer")
	})
	addresses("add")
	eventually(t, "the IPv6 block is in the ToRs' kernels", present)
	eventually(t, "nothing is wrong", func() bool { s := r.status(t); return s != nil && len(s.GetProblems()) == 0 })
}

func (r *rig) fabricRoutes(t *testing.T) []netip.Prefix {
	t.Helper()
	client, err := r.hosts.Client(r.victim.Name)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.ListRoutes(t.Context(), &apiv1.ListRoutesRequest{Owner: "fabric"})
	if err != nil {
		t.Fatal(err)
	}
	var all []netip.Prefix
	for _, route := range resp.GetRoutes() {
		all = append(all, netip.MustParsePrefix(route.GetPrefix()))
	}
	return all
}
