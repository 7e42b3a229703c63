package fabric

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// etcdctl runs inside the first host's namespace, whose links do not lead to etcd.
func etcdctl(t *testing.T, lab *Lab, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	args = append([]string{"ETCDCTL_API=3", "etcdctl", "--dial-timeout", "1s", "--command-timeout", "1s", "--endpoints", lab.Plan.etcd().Endpoint()}, args...)
	out, err := lab.Plan.AllHosts()[0].NS.Output(ctx, "env", args...)
	return string(out), err
}

// TestEtcd builds a lab with an etcd, which hosts reach, which keeps its data over SIGKILL, and which goes with the lab.
func TestEtcd(t *testing.T) {
	shape := testShape(t, tor.BIRD)
	shape.Source = Etcd
	lab := testUp(t, Options{Shape: shape})
	if out, err := etcdctl(t, lab, "put", "block", "r1h1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	reopened, err := Open(shape)
	if err != nil {
		t.Fatal(err)
	}
	if err := reopened.StartEtcd(t.Context()); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("started twice: %v", err)
	}
	if err := reopened.KillEtcd(); err != nil {
		t.Fatal(err)
	}
	if out, err := etcdctl(t, lab, "get", "block"); err == nil {
		t.Errorf("a killed etcd answers %q", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := lab.StartEtcd(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := etcdctl(t, lab, "get", "--print-value-only", "block"); err != nil || out != "r1h1\n" {
		t.Errorf("after SIGKILL it answers %q, %v; want what was put", out, err)
	}
	server, err := daemon.Load(lab.Plan.NodeDir(etcdName), etcdName)
	if err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), shape); err != nil {
		t.Fatal(err)
	}
	if server.Alive() {
		t.Error("etcd is alive after Down")
	}
	wantNoTraces(t, shape)
}

// TestNoEtcd is a lab whose blocks are planned.
func TestNoEtcd(t *testing.T) {
	p, err := NewPlan(Shape{})
	if err != nil {
		t.Fatal(err)
	}
	lab := newLab(p, bird(t), false)
	if err := lab.StartEtcd(t.Context()); !errors.Is(err, errNoEtcd) {
		t.Errorf("start: %v", err)
	}
	if err := lab.KillEtcd(); !errors.Is(err, errNoEtcd) {
		t.Errorf("kill: %v", err)
	}
}

func bird(t *testing.T) tor.Driver {
	t.Helper()
	driver, err := tor.New(tor.BIRD, tor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return driver
}
