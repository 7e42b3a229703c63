package docker_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/docker"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// rig is a rack of two hosts behind two FRRs, each with a Docker.
type rig struct {
	t     *testing.T
	lab   *fabric.Lab
	hosts *workload.Hosts
	a, b  *docker.Docker
}

func newRig(t *testing.T) *rig {
	t.Helper()
	shape := fabric.Shape{
		Name: "dck", Dir: filepath.Join(fabric.DefaultDir, "k"), // short: unix sockets live below it
		Racks: 1, Hosts: 2, Containers: 1, Tor: tor.FRR, IPv6: true, Docker: true,
	}
	lab, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	r := &rig{t: t, lab: lab, hosts: hosts}
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
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// do runs a docker command that must succeed.
func (r *rig) do(d *docker.Docker, args ...string) string {
	r.t.Helper()
	out, err := d.Run(r.t.Context(), args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func TestTry(t *testing.T) {
	r := newRig(t)
	for _, d := range []*docker.Docker{r.a, r.b} {
		t.Log(r.do(d, "network", "create", "-d", "hostfabric", "--ipam-driver", "hostfabric", "--ipv6", "--subnet", r.lab.Plan.Space[0].String(), "--subnet", r.lab.Plan.Space[1].String(), "n1"))
		began := time.Now()
		t.Log(r.do(d, "run", "-d", "--name", "c1", "--net", "n1", "--label", "a=b", docker.Image, "sleep", "600"))
		t.Log(time.Since(began))
		t.Log(r.do(d, "exec", "c1", "ip", "addr"))
		t.Log(r.do(d, "exec", "c1", "ip", "route"))
		t.Log(r.do(d, "exec", "c1", "ip", "-6", "route"))
	}
	ip4 := r.do(r.b, "inspect", "-f", "{{.NetworkSettings.Networks.n1.IPAddress}} {{.NetworkSettings.Networks.n1.GlobalIPv6Address}}", "c1")
	t.Log(ip4)
	for _, a := range strings.Fields(ip4) {
		t.Log(r.do(r.a, "exec", "c1", "ping", "-c", "2", "-W", "2", a))
	}
}
