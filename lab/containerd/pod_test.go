package containerd_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/hostfabric/hostfabric/lab/containerd"
)

// testPods goes through the life of pods on both hosts.
func (r *rig) testPods(t *testing.T) {
	var pods []containerd.Pod
	for _, n := range r.nodes() {
		pod := r.runPod(t, *n, "plain", nil)
		if held := r.of(t, *n, pod.ID); !slices.Equal(sorted(pod.Addresses), held) || len(held) != 2 {
			t.Errorf("%s: the CRI says that pod %s has %v, leased are %v", n.Name, pod.ID, pod.Addresses, held)
		}
		r.agree(t, *n, pod.ID)
		pods = append(pods, pod)
	}
	reach(t, pods...)
	for i, n := range r.nodes() {
		if err := n.StopPod(t.Context(), pods[i].ID); err != nil { // DEL, and another when it is removed
			t.Error(err)
		}
		r.agree(t, *n)
		if err := n.RemovePod(t.Context(), pods[i].ID); err != nil {
			t.Error(err)
		}
		r.agree(t, *n)
	}
}

// testRuntimeCrash kills containerd under its pods.
func (r *rig) testRuntimeCrash(t *testing.T) {
	near, far := r.runPod(t, r.a, "near", nil), r.runPod(t, r.b, "far", nil)
	if err := r.a.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	reach(t, near, far)
	if err := r.a.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := r.a.Pod(t.Context(), near.ID)
	if err != nil || !slices.Equal(again.Addresses, near.Addresses) {
		t.Errorf("after a crash of containerd pod %s has %v, %v; before it had %v", near.ID, again.Addresses, err, near.Addresses)
	}
	reach(t, near, far)
	r.agree(t, r.a, near.ID)
}

func sorted(addrs []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
}
