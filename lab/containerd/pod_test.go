package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/containerd"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
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

// testAnnotations has pods say what they want.
func (r *rig) testAnnotations(t *testing.T) {
	pool := r.a.poolBlock(t, web)
	wanted := pool.Addr().Next().Next()
	asking := r.runPod(t, r.a, "asking", map[string]string{
		"hostfabric.io/pool": web, "hostfabric.io/addresses": wanted.String(), "hostfabric.io/mtu": "1400", "hostfabric.io/labels": "app=shop", "hostfabric.io/aliases": "shop,www", "other.example/pool": "x",
	})
	if len(asking.Addresses) != 2 || asking.Addresses[0] != wanted || !r.a.isOf(asking.Addresses[1], web) {
		t.Errorf("a pod that asked for %s of pool %s has %v", wanted, web, asking.Addresses)
	}
	ep := r.endpoint(t, r.a, asking.ID)
	labels := map[string]string{
		"app": "shop", "io.kubernetes.pod.name": "asking", "io.kubernetes.pod.namespace": "lab", "io.kubernetes.pod.uid": "uid-asking",
	}
	if ep.GetName() != "asking" || !slices.Equal(ep.GetAliases(), []string{"shop", "www"}) || ep.GetMtu() != 1400 || !maps.Equal(ep.GetLabels(), labels) {
		t.Errorf("endpoint is %q %q, MTU %d, labels %v; want asking, 1400, %v", ep.GetName(), ep.GetAliases(), ep.GetMtu(), ep.GetLabels(), labels)
	}
	r.killAgent(t, r.a) // who they are outlives it
	r.startAgent(t, r.a)
	r.awaitAgent(t, r.a)
	if again := r.endpoint(t, r.a, asking.ID); again.GetName() != "asking" || !maps.Equal(again.GetLabels(), labels) {
		t.Errorf("after a crash of the agent the endpoint is %q, labels %v", again.GetName(), again.GetLabels())
	}

	six, far, four := r.runPod(t, r.a, "six", only("ipv6")), r.runPod(t, r.b, "six", only("ipv6")), r.runPod(t, r.b, "four", only("ipv4"))
	for _, p := range []struct {
		pod  containerd.Pod
		ipv4 bool
	}{{six, false}, {far, false}, {four, true}} {
		if len(p.pod.Addresses) != 1 || p.pod.Addresses[0].Is4() != p.ipv4 {
			t.Errorf("a pod of one family (IPv4: %t) has %v", p.ipv4, p.pod.Addresses)
		}
	}
	if routes, err := six.NS.Output(t.Context(), "ip", "-4", "route", "show", "table", "all", "dev", "eth0"); err != nil || len(routes) > 0 {
		t.Errorf("a pod without IPv4 has routes of it: %s, %v", routes, err)
	}
	reach(t, asking, six, far, four)

	taken := six.Addresses[0].String()
	for key, c := range map[string]struct{ value, says string }{
		"pool":      {"nowhere", "nowhere"},
		"addresses": {taken, taken},
		"colour":    {"red", "hostfabric.io/colour: unknown"},
	} {
		pod, err := r.a.RunPod(t.Context(), "refused", map[string]string{"hostfabric.io/" + key: c.value})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("hostfabric.io/%s: %s: %v, %v; want an error that says %q", key, c.value, pod, err, c.says)
		}
	}
	r.onlyPods(t, r.a, "asking", "six")
	r.agree(t, r.a, asking.ID, six.ID)
	r.agree(t, r.b, far.ID, four.ID)
}

func only(family string) map[string]string { return map[string]string{"hostfabric.io/family": family} }

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

// testRuntimeCrashes kills containerd again and again while it sets pods up. It knows afterwards of all that are attached, in whatever
// state, and removes them.
func (r *rig) testRuntimeCrashes(t *testing.T) {
	const workers, crashes = 4, 2
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, workers)
	for i := range workers {
		go func() {
			ran := 0
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := r.a.RunPod(ctx, fmt.Sprintf("crash-%d-%d", i, n), nil); err == nil {
					ran++
				}
			}
			ended <- ran
		}()
	}
	for range crashes {
		wanted := len(r.attached(t, r.a)) + workers + 1 // some are up, others on the way
		nstest.Eventually(t, patience, func() error {
			if have := len(r.attached(t, r.a)); have < wanted {
				return fmt.Errorf("%d pods are attached, want %d", have, wanted)
			}
			return nil
		})
		if err := errors.Join(r.a.Kill(t.Context()), r.a.Restart(t.Context())); err != nil {
			t.Error(err)
		}
	}
	stop()
	ran := 0
	for range workers {
		ran += <-ended
	}
	pods, err := r.a.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		err := r.a.RemovePod(t.Context(), p.GetId())
		if err != nil && strings.Contains(err.Error(), "cached result") {
			// libcni writes what it keeps of an ADD in place. Killed there, it never sends a DEL for it again.
			t.Logf("what an operator has to repair: %v", err)
			err = errors.Join(r.a.ForgetPod(p.GetId()), r.a.RemovePod(t.Context(), p.GetId()))
		}
		if err != nil {
			t.Error(err)
		}
	}
	r.agree(t, r.a)
	t.Logf("%d pods came up, containerd knew of %d", ran, len(pods))
}

func sorted(addrs []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
}
