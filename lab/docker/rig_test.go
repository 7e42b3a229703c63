package docker_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/docker"
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

const patience = 30 * time.Second

// rig is a rack of two hosts behind two FRRs, each with a Docker.
type rig struct {
	*testing.T // of the test that plays
	lab        *fabric.Lab
	hosts      *workload.Hosts
	a, b       *docker.Docker
	pins       int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	shape := fabric.Shape{
		Name: "dck", Dir: filepath.Join(fabric.DefaultDir, "k"), // short: unix sockets live below it
		Racks: 1, Hosts: 2, Containers: 1, Tor: tor.FRR, IPv6: true, Docker: true,
	}
	lab, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	r := &rig{T: t, lab: lab, hosts: hosts}
	var g errgroup.Group
	for i, at := range []**docker.Docker{&r.a, &r.b} {
		g.Go(func() (err error) {
			*at, err = docker.Start(t.Context(), lab.Plan, lab.Plan.AllHosts()[i])
			return err
		})
	}
	err := g.Wait()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, d := range []*docker.Docker{r.a, r.b} {
			if err := d.Close(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// play runs a scene as a part of the test.
func (r *rig) play(name string, scene func(*rig)) {
	whole := r.T
	r.Run(name, func(t *testing.T) {
		r.T = t
		defer func() { r.T = whole }()
		scene(r)
	})
}

// do runs a docker command that must succeed.
func (r *rig) do(d *docker.Docker, args ...string) string {
	r.Helper()
	out, err := d.Run(r.Context(), args...)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// refuse runs a docker command that must fail with a text.
func (r *rig) refuse(d *docker.Docker, text string, args ...string) {
	r.Helper()
	out, err := d.Run(r.Context(), args...)
	if err == nil || !strings.Contains(err.Error(), text) {
		r.Errorf("docker %s: %q, %v; want %q", strings.Join(args, " "), out, err, text)
	}
}

// network makes the dual-stack network of a host that lets containers ask for addresses.
func (r *rig) network(d *docker.Docker, name string, more ...string) {
	r.Helper()
	args := []string{"network", "create", "-d", "hostfabric", "--ipam-driver", "hostfabric", "--ipv6"}
	for _, p := range r.lab.Plan.Space {
		args = append(args, "--subnet", p.String())
	}
	r.do(d, append(append(args, more...), name)...)
}

// start starts a container that sleeps.
func (r *rig) start(d *docker.Docker, network, name string, more ...string) {
	r.Helper()
	args := append([]string{"run", "--detach", "--stop-timeout", "0", "--name", name, "--network", network}, more...)
	r.do(d, append(args, docker.Image, "sleep", "3600")...)
}

// addresses are those of a container by Docker, IPv4 first.
func (r *rig) addresses(d *docker.Docker, network, name string) []netip.Addr {
	r.Helper()
	of := fmt.Sprintf(`(index .NetworkSettings.Networks "%s")`, network)
	out := r.do(d, "inspect", "--format", "{{"+of+".IPAddress}} {{"+of+".GlobalIPv6Address}}", name)
	var all []netip.Addr
	for text := range strings.FieldsSeq(out) {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// ends are the addresses of a container, to probe from.
func (r *rig) ends(d *docker.Docker, network, name string) []probe.Endpoint {
	r.Helper()
	r.pins++
	ns, err := d.Pin(r.Context(), name, fmt.Sprintf("%s-c%d", d.Host.NS.Name, 9000+r.pins))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			r.Error(err)
		}
	})
	var all []probe.Endpoint
	for _, addr := range r.addresses(d, network, name) {
		all = append(all, probe.Endpoint{Name: name, NS: ns, Addr: addr})
	}
	return all
}

// reach wants every end to be answered by every other one of its family, at the first try.
func (r *rig) reach(ends ...probe.Endpoint) {
	r.Helper()
	var pairs []probe.Pair
	for _, from := range ends {
		for _, to := range ends {
			if from != to && from.Addr.Is4() == to.Addr.Is4() {
				pairs = append(pairs, probe.Pair{From: from, To: to})
			}
		}
	}
	report, err := probe.Ping(r.Context(), pairs, probe.PingOptions{})
	if err != nil || report.Lost > 0 || report.Sent == 0 {
		r.Fatalf("%d of %d pings lost, %v: %v", report.Lost, report.Sent, err, report.Failed)
	}
	r.Logf("%d pings answered, median %s", report.Sent, report.Median)
}

// lossless runs do under a stream of 1000 packets a second each way, and fails if one is lost.
func (r *rig) lossless(x, y []probe.Endpoint, do func()) {
	r.Helper()
	var pairs []probe.Pair
	for i := range x {
		pairs = append(pairs, probe.Pair{From: x[i], To: y[i]}, probe.Pair{From: y[i], To: x[i]})
	}
	stream, err := probe.StartStream(r.Context(), pairs, probe.StreamOptions{Rate: 1000})
	if err != nil {
		r.Fatal(err)
	}
	do()
	for _, s := range stream.Stop() {
		r.Logf("%s -> %s: %d packets sent, %d lost", s.Pair.From.Addr, s.Pair.To.Addr, s.Sent, s.Lost)
		if s.Lost > 0 || s.Sent == 0 {
			r.Errorf("%d of %d packets lost", s.Lost, s.Sent)
		}
	}
}

func (r *rig) eventually(check func() error) {
	r.Helper()
	nstest.Eventually(r, patience, check)
}

func (r *rig) client(d *docker.Docker) apiv1.HostfabricClient {
	c, err := r.hosts.Client(d.Host.Name)
	if err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *rig) endpoints(d *docker.Docker) []*apiv1.Endpoint {
	r.Helper()
	resp, err := r.client(d).ListEndpoints(r.Context(), &apiv1.ListEndpointsRequest{})
	if err != nil {
		r.Fatal(err)
	}
	return resp.GetEndpoints()
}

// agree waits until a host's leases, endpoints, links and routes are those of so many containers, and each says the same.
func (r *rig) agree(d *docker.Docker, containers int) {
	r.Helper()
	r.eventually(func() error {
		var attached, leased, links []string
		for _, ep := range r.endpoints(d) {
			attached = append(attached, ep.GetAddresses()...)
			links = append(links, ep.GetHostInterface())
		}
		resp, err := r.client(d).ListLeases(r.Context(), &apiv1.ListLeasesRequest{})
		if err != nil {
			return err
		}
		for _, l := range resp.GetLeases() {
			if l.GetState() != "quarantined" {
				leased = append(leased, l.GetAddress())
			}
		}
		routed := r.inHost(d, "ip -4 route show proto 176; ip -6 route show proto 176", func(f []string) (string, bool) {
			return f[0], strings.Contains(strings.Join(f, " "), " dev hf")
		})
		have := r.inHost(d, "ip -br link show type veth", func(f []string) (string, bool) {
			name, _, _ := strings.Cut(f[0], "@")
			return name, strings.HasPrefix(name, "hf") || strings.HasPrefix(name, "hd")
		})
		for _, list := range [][]string{attached, leased, links} {
			slices.Sort(list)
		}
		if len(links) != containers || !slices.Equal(attached, leased) || !slices.Equal(attached, routed) || !slices.Equal(links, have) {
			return fmt.Errorf("want %d containers, have endpoints %v on %v, leases %v, routes %v, links %v", containers, attached, links, leased, routed, have)
		}
		return nil
	})
}

// inHost picks what a command says, by lines, in the host's namespace.
func (r *rig) inHost(d *docker.Docker, script string, pick func(fields []string) (string, bool)) []string {
	r.Helper()
	out, err := d.Host.NS.Output(r.Context(), "sh", "-c", script)
	if err != nil {
		r.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if s, ok := pick(strings.Fields(line)); ok {
			all = append(all, s)
		}
	}
	slices.Sort(all)
	return all
}

// killAgent kills a host's agent and waits until it is gone.
func (r *rig) killAgent(d *docker.Docker) {
	r.Helper()
	pid, err := r.lab.AgentPID(d.Host.Name)
	if err != nil {
		r.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.Fatal(err)
	}
	r.eventually(func() error {
		if _, err := r.lab.AgentPID(d.Host.Name); err == nil {
			return fmt.Errorf("agent %d lives", pid)
		}
		return nil
	})
}

// startAgent starts a host's agent and waits until it serves.
func (r *rig) startAgent(d *docker.Docker) {
	r.Helper()
	if err := r.lab.StartAgent(d.Host.Name, programs.agent); err != nil {
		r.Fatal(err)
	}
	r.eventually(func() error {
		st, err := r.client(d).GetStatus(r.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !st.GetReady() {
			err = fmt.Errorf("not ready: %v", st.GetProblems())
		}
		return err
	})
}

// reservations are the addresses that Docker was given and that no endpoint has.
func (r *rig) reservations(d *docker.Docker) []string {
	r.Helper()
	resp, err := r.client(d).ListLeases(r.Context(), &apiv1.ListLeasesRequest{})
	if err != nil {
		r.Fatal(err)
	}
	var all []string
	for _, l := range resp.GetLeases() {
		if l.GetInterface() == "reserved" && l.GetState() == "leased" {
			all = append(all, l.GetAddress())
		}
	}
	return all
}
