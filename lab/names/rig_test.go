package names_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/names"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/resolve"
	"github.com/hostfabric/hostfabric/lab/workload"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// rig is a fabric of two racks, or more hosts of one, whose hosts answer for their containers' names.
type rig struct {
	lab   *fabric.Lab
	hosts *workload.Hosts
}

func newRig(t *testing.T, shape fabric.Shape) *rig {
	t.Helper()
	nstest.RequireRoot(t)
	shape.Dir = filepath.Join(fabric.DefaultDir, "n") // short: unix sockets live below it
	if shape.Containers == 0 {
		shape.Containers = 2
	}
	lab, err := fabric.Up(t.Context(), fabric.Options{Shape: shape, Agent: programs.agent, Binary: programs.lab}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range lab.Plan.AllHosts() {
				log, _ := os.ReadFile(filepath.Join(lab.Plan.NodeDir(h.Name), "agent.log"))
				t.Logf("agent of %s:\n%s", h.Name, log)
			}
		}
		if err := fabric.Down(context.Background(), lab.Plan.Shape); err != nil {
			t.Error(err)
		}
	})
	r := &rig{lab: lab}
	if r.hosts, err = workload.Dial(lab); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.hosts.Close() })
	return r
}

// host is the plan of a host.
func (r *rig) host(t *testing.T, name string) fabric.Host {
	t.Helper()
	for _, h := range r.lab.Plan.AllHosts() {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("no host %s", name)
	return fabric.Host{}
}

func (r *rig) client(t *testing.T, host string) apiv1.HostfabricClient {
	t.Helper()
	client, err := r.hosts.Client(host)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// attach attaches a planned container under a name, and returns its addresses.
func (r *rig) attach(t *testing.T, host string, number int, name string) []string {
	t.Helper()
	c := r.host(t, host).Containers[number]
	resp, err := r.client(t, host).Attach(t.Context(), &apiv1.AttachRequest{ContainerId: c.Name, Interface: "eth0", Netns: c.NS.Path(), Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetEndpoint().GetAddresses()
}

func (r *rig) detach(t *testing.T, host string, number int) {
	t.Helper()
	if _, err := r.client(t, host).Detach(t.Context(), &apiv1.DetachRequest{ContainerId: r.host(t, host).Containers[number].Name, Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
}

// asker asks a host's server from inside a namespace.
func asker(t *testing.T, from netns.NS, server netip.Addr) *resolve.Client {
	t.Helper()
	c, err := resolve.Dial(from, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// own is a host's own address of a family, on which it answers, as its interface has it.
func (r *rig) own(t *testing.T, host string, ipv6 bool) netip.Addr {
	t.Helper()
	var found netip.Addr
	nstest.Eventually(t, 10*time.Second, func() error {
		out, err := r.host(t, host).NS.Output(t.Context(), "ip", "-o", "address", "show", "dev", "lo", "scope", "global")
		for line := range strings.Lines(string(out)) {
			fields := strings.Fields(line)
			if p, e := netip.ParsePrefix(fields[3]); e == nil && p.Addr().Is6() == ipv6 {
				found = p.Addr()
				return nil
			}
		}
		return fmt.Errorf("%s has no address of its own: %s, %w", host, out, err)
	})
	return found
}

// prompt is how soon an answer is there that nobody has to be waited for.
const prompt = time.Second

// bound is how soon every answer is there: dns.timeout, and what a busy machine takes.
const bound = 2*time.Second + prompt

// want asks once.
func want(t *testing.T, c *resolve.Client, name, kind, answer string, within time.Duration) {
	t.Helper()
	got, err := c.Ask(name, kind)
	if err != nil || got.String() != answer || got.Took > within {
		t.Errorf("%s %s: %s after %s (%v), want %s within %s", name, kind, got, got.Took, err, answer, within)
	}
}

// settles asks until the answer is right.
func settles(t *testing.T, c *resolve.Client, name, kind, answer string) {
	t.Helper()
	nstest.Eventually(t, 30*time.Second, func() error {
		got, err := c.Ask(name, kind)
		if err == nil && got.String() != answer {
			err = fmt.Errorf("%s %s: %s, want %s", name, kind, got, answer)
		}
		return err
	})
}

// configure adds to a host's configuration and has its agent reload it.
func (r *rig) configure(t *testing.T, host, text string) {
	t.Helper()
	file := filepath.Join(r.lab.Plan.NodeDir(host), "hostfabric.yaml")
	conf, err := r.lab.Plan.AgentConfig(r.host(t, host))
	if err == nil {
		err = os.WriteFile(file, append(conf, text...), 0o644)
	}
	if err == nil {
		_, err = r.client(t, host).Reload(t.Context(), &apiv1.ReloadRequest{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

var fqdn = names.FQDN
