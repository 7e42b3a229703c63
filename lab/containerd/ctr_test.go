package containerd_test

import (
	"strings"
	"testing"
)

// testCtr runs containers on both hosts. Those that are killed send no DEL, and are collected all the same.
func (r *rig) testCtr(t *testing.T) {
	out, err := r.a.Run(t.Context(), "once", "ip", "address", "show", "dev", "eth0")
	if err != nil || !strings.Contains(out, "10.64.0.") || !strings.Contains(out, "fd00:64::") {
		t.Errorf("addresses of a container: %q, %v", out, err)
	}
	r.agree(t, r.a) // it sent its DEL
	for _, n := range r.nodes() {
		if err := n.RunDetached(t.Context(), "stays"); err != nil {
			t.Fatal(err)
		}
	}
	for _, way := range []struct{ from, to node }{{r.a, r.b}, {r.b, r.a}} {
		for _, to := range r.of(t, way.to, way.to.ContainerID("stays")) {
			out, err := way.from.Exec(t.Context(), "stays", "ping", "-c", "1", "-W", "5", to.String())
			if err != nil || !strings.Contains(out, "1 packets received") {
				t.Errorf("ping from %s to %s: %q, %v", way.from.Name, to, out, err)
			}
		}
	}
	for _, n := range r.nodes() {
		r.agree(t, *n, n.ContainerID("stays"))
		if err := n.RemoveTask(t.Context(), "stays"); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: what a container left that sent no DEL is collected within %s", n.Name, r.agree(t, *n))
	}
}
