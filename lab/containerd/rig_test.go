package containerd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/containerd"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// patience is for what takes a moment on an idle machine.
const patience = 30 * time.Second

// web is a pool that the hosts have beside their default one.
const web = "web"

const networkName = "hostfabric-cri-lab"

// rig is a rack of two hosts behind FRR routers, each with a containerd.
type rig struct {
	lab   *fabric.Lab
	hosts *workload.Hosts
	a, b  node
}

// node is one of the hosts.
type node struct {
	fabric.Host
	*containerd.Containerd
}

func newRig(t *testing.T) *rig {
	t.Helper()
	shape := fabric.Shape{
		Name: "cri", Dir: filepath.Join(fabric.DefaultDir, "c"), // short: unix sockets live below it
		Racks: 1, Hosts: 2, Containers: 1, Tor: tor.FRR, IPv6: true, Pools: []string{web}, Reconcile: time.Second,
	}
	l, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	all := l.Plan.AllHosts()
	r := &rig{lab: l, hosts: hosts, a: node{Host: all[0]}, b: node{Host: all[1]}}
	for _, n := range r.nodes() {
		c, err := containerd.Start(t.Context(), containerd.Spec{
			Host: n.Name, NS: n.NS, Dir: filepath.Join(l.Plan.NodeDir(n.Name), "c"),
			Plugins: []string{programs.plugin, tool(t, "loopback")}, Network: networkName, Config: r.network(n, nil),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(context.Background()); err != nil { // the test's context has ended
				t.Error(err)
			}
		})
		n.Containerd = c
	}
	return r
}

func (r *rig) nodes() []*node { return []*node{&r.a, &r.b} }

// network is a network config list with our plugin, for the agent of this host.
func (r *rig) network(n *node, more map[string]any) []byte {
	plugin := map[string]any{
		"type": "hostfabric-cni", "socket": r.lab.Plan.SocketPath(n.Name, "cni.sock"), "spool": filepath.Join(r.lab.Plan.NodeDir(n.Name), "state", "cni-spool"),
		"capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true},
	}
	for k, v := range more {
		plugin[k] = v
	}
	list, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": networkName, "plugins": []any{plugin}})
	if err != nil {
		panic(err) // maps of strings
	}
	return list
}

// agree waits until all accounts of a host's containers name these and nobody else, and returns how long it took.
func (r *rig) agree(t *testing.T, n node, containers ...string) time.Duration {
	t.Helper()
	began := time.Now()
	nstest.Eventually(t, patience, func() error { return r.hosts.Agree(t.Context(), n.Name, containers...) })
	return time.Since(began)
}

// killAgent ends a host's agent as a crash does.
func (r *rig) killAgent(t *testing.T, n node) {
	t.Helper()
	p, err := daemon.Load(r.lab.Plan.NodeDir(n.Name), "agent")
	if err == nil {
		err = daemon.Stop(t.Context(), []daemon.Process{p}, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// startAgent starts it again.
func (r *rig) startAgent(t *testing.T, n node) {
	t.Helper()
	if err := r.lab.StartAgent(n.Name, programs.agent); err != nil {
		t.Fatal(err)
	}
}

// runPod runs a pod and removes it with the test, if it is still there.
func (r *rig) runPod(t *testing.T, n node, name string, annotations map[string]string) containerd.Pod {
	t.Helper()
	pod, err := n.RunPod(t.Context(), name, annotations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.RemovePod(context.Background(), pod.ID); err != nil {
			t.Error(err)
		}
	})
	return pod
}

// reach has every pod ping every other at all addresses of a family they share.
func reach(t *testing.T, pods ...containerd.Pod) {
	t.Helper()
	var ends []probe.Endpoint
	for _, p := range pods {
		for _, a := range p.Addresses {
			ends = append(ends, probe.Endpoint{Name: p.ID, NS: p.NS, Addr: a})
		}
	}
	pairs := probe.AllToAll(ends, func(e probe.Endpoint) string { return e.Name })
	if len(pairs) == 0 {
		t.Fatal("no pair of pods with a family in common")
	}
	report, err := probe.Ping(t.Context(), pairs, probe.PingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Failed {
		t.Errorf("no reply from %s to %s", p.To.Addr, p.From.Addr)
	}
}

// isOf reports whether an address is in one of the host's blocks of the pool.
func (n node) isOf(a netip.Addr, pool string) bool {
	for block, of := range n.Pools {
		if of == pool && block.Contains(a) {
			return true
		}
	}
	return false
}

// poolBlock is the host's IPv4 block of a pool.
func (n node) poolBlock(t *testing.T, pool string) netip.Prefix {
	t.Helper()
	for block, of := range n.Pools {
		if of == pool && block.Addr().Is4() {
			return block
		}
	}
	t.Fatalf("%s has no block of pool %s", n.Name, pool)
	return netip.Prefix{}
}

// attached is what the host's agent says of all its containers.
func (r *rig) attached(t *testing.T, n node) []*apiv1.Endpoint {
	t.Helper()
	client, err := r.hosts.Client(n.Name)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.ListEndpoints(t.Context(), &apiv1.ListEndpointsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetEndpoints()
}

// endpoint is what it says of one.
func (r *rig) endpoint(t *testing.T, n node, container string) *apiv1.Endpoint {
	t.Helper()
	for _, ep := range r.attached(t, n) {
		if ep.GetContainerId() == container {
			return ep
		}
	}
	t.Fatalf("%s has no endpoint of container %s", n.Name, container)
	return nil
}

// of are the addresses that a container holds.
func (r *rig) of(t *testing.T, n node, container string) []netip.Addr {
	t.Helper()
	held, err := r.hosts.Addresses(t.Context(), n.Name, container)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// setNetwork changes a host's network config and waits until the runtime has seen it.
func (r *rig) setNetwork(t *testing.T, n node, more map[string]any) {
	t.Helper()
	if err := n.SetNetwork(t.Context(), r.network(&n, more)); err != nil {
		t.Fatal(err)
	}
}

// onlyPods wants pods of these names on the host, and no others, in whatever state.
func (r *rig) onlyPods(t *testing.T, n node, names ...string) {
	t.Helper()
	pods, err := n.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, p := range pods {
		have = append(have, p.GetMetadata().GetName())
	}
	slices.Sort(have)
	slices.Sort(names)
	if !slices.Equal(have, names) {
		t.Errorf("%s has pods %q, want %q", n.Name, have, names)
	}
}

// awaitShim waits until the plugin runs on the host, which asks for an agent then.
func (r *rig) awaitShim(t *testing.T, n node) {
	t.Helper()
	inside := daemon.InNamespace([]string{n.NS.Path()})
	nstest.Eventually(t, patience, func() error {
		running, err := daemon.Find(func(proc string) bool {
			exe, err := os.Readlink(proc + "/exe")
			return err == nil && exe == programs.plugin && inside(proc)
		})
		if err == nil && len(running) == 0 {
			err = errors.New("the plugin does not run")
		}
		return err
	})
}

// awaitAgent waits until a host's agent answers and has no problem.
func (r *rig) awaitAgent(t *testing.T, n node) {
	t.Helper()
	client, err := r.hosts.Client(n.Name)
	if err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, patience, func() error {
		s, err := client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !s.GetReady() {
			err = fmt.Errorf("not ready: %q", s.GetProblems())
		}
		return err
	})
}
