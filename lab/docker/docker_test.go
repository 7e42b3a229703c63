package docker_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/docker"
	"github.com/hostfabric/hostfabric/lab/probe"
)

// TestDocker plays a day of two Docker hosts.
func TestDocker(t *testing.T) {
	r := newRig(t)
	r.play("networks", networks)
	r.play("containers reach each other", reach)
	r.play("names", names)
	r.play("wishes", wishes)
	r.play("restart of a container", restart)
	r.play("dockerd killed", dockerdKilled)
	r.play("dockerd killed without live-restore", dockerdForgets)
	r.play("agent killed", agentKilled)
	r.play("many at once", manyAtOnce)
	r.play("storm", storm)
	r.play("forgotten endpoint", forgotten)
	r.play("bad input", badInput)
	r.play("end", end)
}

func networks(r *rig) {
	for _, d := range []*docker.Docker{r.a, r.b} {
		r.network(d, "net", "-o", "com.docker.network.driver.mtu=1400")
		r.do(d, "network", "create", "-d", "hostfabric", "--ipam-driver", "hostfabric", "plain") // of any address there is
	}
	for text, args := range map[string][]string{
		"--ipam-driver hostfabric": {"-d", "hostfabric"},
		"needs a --subnet":         {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--ipv6"},
		"has no address of this":   {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--subnet", "192.0.2.0/24"},
		"want 576 to 65535":        {"-d", "hostfabric", "--ipam-driver", "hostfabric", "-o", "com.docker.network.driver.mtu=-1"},
		"-o colour: unknown":       {"-d", "hostfabric", "--ipam-driver", "hostfabric", "-o", "colour=red"},
		"--ipam-opt x: unknown":    {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--ipam-opt", "x=y"},
		"pool \"A B\"":             {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--ipam-opt", "hostfabric.pool=A B"},
		"cannot close a network":   {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--internal"},
		"gateway is 169.254.1.1":   {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--subnet", "10.64.0.0/10", "--gateway", "10.64.0.1"},
		"--ip-range":               {"-d", "hostfabric", "--ipam-driver", "hostfabric", "--subnet", "10.64.0.0/10", "--ip-range", "10.64.0.0/28"},
	} {
		r.refuse(r.a, text, append(append([]string{"network", "create"}, args...), "bad")...)
	}
	if got := r.do(r.a, "network", "ls", "--filter", "driver=hostfabric", "--format", "{{.Name}}"); got != "net\nplain" {
		r.Errorf("networks: %q", got)
	}
}

func reach(r *rig) {
	var ends []probe.Endpoint
	for _, d := range []*docker.Docker{r.a, r.b} {
		for _, name := range []string{"c1", "c2"} {
			r.start(d, "net", name, "--label", "com.example.tier=web")
			ends = append(ends, r.ends(d, "net", name)...)
		}
		r.agree(d, 2)
	}
	if len(ends) != 8 {
		r.Fatalf("addresses: %v", ends)
	}
	r.reach(ends...)
	// With what others attach, too.
	other, err := r.hosts.Attach(r.Context(), r.b.Host.Name, r.b.Host.Containers[0])
	if err != nil {
		r.Fatal(err)
	}
	r.reach(append(other, ends...)...)
	if err := r.hosts.Detach(r.Context(), r.b.Host.Name, r.b.Host.Containers[0]); err != nil {
		r.Fatal(err)
	}
	r.do(r.a, "exec", "c1", "ping", "-c", "1", "c2") // by Docker's own resolver
	if out := r.do(r.a, "exec", "c1", "ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		r.Errorf("MTU: %s", out)
	}
	r.start(r.a, "plain", "c3")
	r.reach(append(r.ends(r.a, "plain", "c3"), ends...)...)
	r.do(r.a, "rm", "--force", "c3")
}

func names(r *rig) {
	r.eventually(func() error {
		for _, ep := range r.endpoints(r.a) {
			if (ep.GetName() != "c1" && ep.GetName() != "c2") || ep.GetLabels()["com.example.tier"] != "web" || len(ep.GetLabels()["hostfabric.container-id"]) != 64 {
				return fmt.Errorf("endpoint %v", ep)
			}
		}
		return nil
	})
	domain := r.a.Host.Name + ".fabric.internal"
	r.start(r.a, "net", "asks", "--network-alias", "asking", "--network-alias", "not.-a.name",
		"--dns", r.a.Host.Blocks[0].Addr().String(), "--dns-search", domain)
	defer r.do(r.a, "rm", "--force", "asks")
	id := r.do(r.a, "inspect", "--format", "{{.Id}}", "asks")[:12]
	r.eventually(func() error {
		for _, ep := range r.endpoints(r.a) {
			if ep.GetName() == "asks" && slices.Equal(slices.Sorted(slices.Values(ep.GetAliases())), slices.Sorted(slices.Values([]string{"asking", id}))) {
				return nil
			}
		}
		return fmt.Errorf("endpoints %v, want asks with aliases asking and %s", r.endpoints(r.a), id)
	})
	// Docker's own resolver, which knows none of these, asks the agent from the container's namespace.
	near, far, self := r.addresses(r.a, "net", "c2"), r.addresses(r.b, "net", "c2"), r.addresses(r.a, "net", "asks")
	for name, want := range map[string][]netip.Addr{
		"c2." + domain: near, "asking." + domain: self, id + "." + domain: self, "c2." + r.b.Host.Name + ".fabric.internal": far,
	} {
		for i, family := range []string{"-4", "-6"} {
			if out := r.do(r.a, "exec", "asks", "ping", family, "-c", "1", name); !strings.Contains(out, "("+want[i].String()+")") {
				r.Errorf("%s is not %s: %s", name, want[i], out)
			}
		}
	}
}

func wishes(r *rig) {
	want := r.a.Host.Blocks[0].Addr().Next().Next().Next().Next().Next() // no container has come so far
	r.start(r.a, "net", "wish", "--ip", want.String(), "--mac-address", "02:42:aa:bb:cc:dd", "--dns", "192.0.2.53", "--publish", "8080:80")
	if got := r.addresses(r.a, "net", "wish"); got[0] != want {
		r.Errorf("asked for %s, got %s", want, got)
	}
	if out := r.do(r.a, "exec", "wish", "ip", "link", "show", "eth0"); !strings.Contains(out, "02:42:aa:bb:cc:dd") {
		r.Errorf("MAC address: %s", out)
	}
	r.reach(append(r.ends(r.a, "net", "wish"), r.ends(r.b, "net", "c1")...)...)
	if out := r.do(r.a, "port", "wish"); out != "" {
		r.Errorf("published %q", out)
	}
	r.refuse(r.a, "address in use", "run", "--rm", "--network", "net", "--ip", want.String(), docker.Image, "sleep", "1")
	elsewhere := r.b.Host.Blocks[0].Addr().Next().Next().Next()
	r.refuse(r.a, "outside the blocks", "run", "--rm", "--network", "net", "--ip", elsewhere.String(), docker.Image, "sleep", "1")
	r.agree(r.a, 3)

	// A second network of ours would only give a second address; one of Docker's own may stand beside, and go again.
	r.refuse(r.a, "one network of this driver", "network", "connect", "plain", "wish")
	r.agree(r.a, 3)
	r.do(r.a, "network", "create", "zz")
	r.do(r.a, "network", "connect", "zz", "wish")
	r.reach(append(r.ends(r.a, "net", "wish"), r.ends(r.b, "net", "c1")...)...)
	r.do(r.a, "network", "disconnect", "zz", "wish")
	r.do(r.a, "network", "disconnect", "net", "wish")
	r.agree(r.a, 2)
	r.do(r.a, "network", "connect", "plain", "wish")
	r.reach(append(r.ends(r.a, "plain", "wish"), r.ends(r.b, "net", "c1")[0])...)
	r.do(r.a, "rm", "--force", "wish")
	r.do(r.a, "network", "rm", "zz")
	r.agree(r.a, 2)
}

func restart(r *rig) {
	before := r.addresses(r.a, "net", "c1")
	r.do(r.a, "restart", "--time", "0", "c1")
	r.reach(append(r.ends(r.a, "net", "c1"), r.ends(r.b, "net", "c1")...)...)
	if after := r.addresses(r.a, "net", "c1"); after[0] == before[0] {
		r.Errorf("%s was given again at once", after[0])
	}
	r.agree(r.a, 2)
}

// dockerdKilled: neither containers nor their leases depend on the daemon, which says nothing anew of them when it is back.
func dockerdKilled(r *rig) {
	a, b := r.ends(r.a, "net", "c1"), r.ends(r.b, "net", "c1")
	r.lossless(a, b, func() {
		if err := r.a.KillDaemon(r.Context()); err != nil {
			r.Fatal(err)
		}
		r.agree(r.a, 2)
		if err := r.a.StartDaemon(r.Context()); err != nil {
			r.Fatal(err)
		}
		r.agree(r.a, 2)
	})
	r.do(r.a, "rm", "--force", "c2")
	r.agree(r.a, 1)
	r.start(r.a, "net", "c2")
	r.reach(append(r.ends(r.a, "net", "c2"), b...)...)
	r.agree(r.a, 2)
}

// dockerdForgets: a daemon that ends its containers when it starts deletes what they had.
func dockerdForgets(r *rig) {
	r.a.Forgetful = true
	defer func() { r.a.Forgetful = false }()
	if err := r.a.KillDaemon(r.Context()); err != nil {
		r.Fatal(err)
	}
	if err := r.a.StartDaemon(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.agree(r.a, 0)
	r.a.Forgetful = false
	if err := r.a.KillDaemon(r.Context()); err != nil {
		r.Fatal(err)
	}
	if err := r.a.StartDaemon(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.do(r.a, "start", "c1", "c2")
	r.reach(append(r.ends(r.a, "net", "c1"), r.ends(r.b, "net", "c1")...)...)
	r.agree(r.a, 2)
}

func agentKilled(r *rig) {
	a, b := r.ends(r.a, "net", "c1"), r.ends(r.b, "net", "c1")
	r.lossless(a, b, func() {
		r.killAgent(r.a)
		r.startAgent(r.a)
		r.agree(r.a, 2)
	})
	for _, ep := range r.endpoints(r.a) {
		if ep.GetName() == "" {
			r.Errorf("endpoint %s has lost its name", ep.GetContainerId())
		}
	}
	r.do(r.a, "stop", "--time", "0", "c1")
	r.agree(r.a, 1)
	r.do(r.a, "start", "c1")
	r.start(r.a, "net", "c3")
	r.reach(append(append(r.ends(r.a, "net", "c1"), r.ends(r.a, "net", "c3")...), b...)...)
	r.agree(r.a, 3)

	// Docker waits for an agent that is away for a moment.
	r.killAgent(r.a)
	var g errgroup.Group
	g.Go(func() error {
		_, err := r.a.Run(r.Context(), "rm", "--force", "c3")
		return err
	})
	g.Go(func() error {
		_, err := r.a.Run(r.Context(), "run", "--detach", "--name", "c4", "--network", "net", docker.Image, "sleep", "3600")
		return err
	})
	r.startAgent(r.a)
	if err := g.Wait(); err != nil {
		r.Error(err)
	}
	r.reach(append(r.ends(r.a, "net", "c4"), b...)...)
	r.agree(r.a, 3)
	r.do(r.a, "rm", "--force", "c4")
	r.agree(r.a, 2)
}

func manyAtOnce(r *rig) {
	const n = 12
	var g errgroup.Group
	for i := range n {
		d := []*docker.Docker{r.a, r.b}[i%2]
		g.Go(func() error {
			_, err := d.Run(r.Context(), "run", "--detach", "--name", fmt.Sprintf("m%d", i), "--network", "net", docker.Image, "sleep", "3600")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		r.Fatal(err)
	}
	var ends []probe.Endpoint
	for i := range n {
		ends = append(ends, r.ends([]*docker.Docker{r.a, r.b}[i%2], "net", fmt.Sprintf("m%d", i))...)
	}
	r.reach(ends...)
	r.agree(r.a, 2+n/2)
	r.agree(r.b, 2+n/2)
	for i := range n {
		d := []*docker.Docker{r.a, r.b}[i%2]
		g.Go(func() error {
			_, err := d.Run(r.Context(), "rm", "--force", fmt.Sprintf("m%d", i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		r.Fatal(err)
	}
	r.agree(r.a, 2)
	r.agree(r.b, 2)
}

func end(r *rig) {
	var errs []error
	for _, d := range []*docker.Docker{r.a, r.b} {
		r.refuse(d, "active endpoints", "network", "rm", "net")
		for _, args := range [][]string{{"rm", "--force", "c1", "c2"}, {"network", "rm", "net", "plain"}} {
			_, err := d.Run(r.Context(), args...)
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.Fatal(err)
	}
	r.agree(r.a, 0)
	r.agree(r.b, 0)
}
