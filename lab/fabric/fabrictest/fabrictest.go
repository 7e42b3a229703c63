// Package fabrictest gives tests a fabric that goes with them.
package fabrictest

import (
	"context"
	"testing"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// Up builds the fabric and connects to its agents. agent and lab are the binaries.
func Up(t testing.TB, shape fabric.Shape, agent, lab string) (*fabric.Lab, *workload.Hosts) {
	t.Helper()
	nstest.RequireRoot(t)
	l, err := fabric.Up(t.Context(), fabric.Options{Shape: shape, Agent: agent, Binary: lab}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fabric.Down(context.Background(), l.Plan.Shape); err != nil { // the test's context has ended
			t.Error(err)
		}
	})
	hosts, err := workload.Dial(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hosts.Close() })
	return l, hosts
}
