package containerd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/containerd"
)

// testAgentAway kills the agent and lets the runtime go on: a pod that comes waits for the agent as long as its network says, one that
// goes is gone.
func (r *rig) testAgentAway(t *testing.T) {
	stays, goes := r.runPod(t, r.a, "stays", nil), r.runPod(t, r.a, "goes", nil)
	far := r.runPod(t, r.b, "far", nil)
	r.killAgent(t, r.a)
	reach(t, stays, far)
	if err := r.a.RemovePod(t.Context(), goes.ID); err != nil {
		t.Errorf("a pod cannot go while the agent is away: %v", err)
	}

	r.setNetwork(t, r.a, map[string]any{"timeout": "1s"})
	began := time.Now()
	pod, err := r.a.RunPod(t.Context(), "hasty", nil)
	if err == nil || !strings.Contains(err.Error(), "hostfabric agent is not running") {
		t.Errorf("a pod comes while the agent is away: %v, %v", pod, err)
	}
	t.Logf("after %s: %v", time.Since(began).Round(time.Millisecond), err)
	r.onlyPods(t, r.a, "stays")

	r.setNetwork(t, r.a, nil)
	type outcome struct {
		pod containerd.Pod
		err error
	}
	waits := make(chan outcome, 1)
	go func() {
		pod, err := r.a.RunPod(t.Context(), "waits", nil)
		waits <- outcome{pod, err}
	}()
	r.awaitShim(t, r.a)
	r.startAgent(t, r.a)
	waited := <-waits
	if waited.err != nil {
		t.Fatal(waited.err)
	}
	r.agree(t, r.a, stays.ID, waited.pod.ID)
	reach(t, stays, waited.pod, far)
	if err := r.a.RemovePod(t.Context(), waited.pod.ID); err != nil {
		t.Error(err)
	}
	r.agree(t, r.a, stays.ID)
}

// testAgentCrashes kills the agent again and again while pods come and go. A pod that failed said so and is not there.
func (r *rig) testAgentCrashes(t *testing.T) {
	const workers, rounds, crashes = 4, 4, 3
	failed := make(chan error, workers*rounds)
	done := make(chan struct{}, workers)
	for i := range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for range rounds {
				pod, err := r.a.RunPod(t.Context(), fmt.Sprint("churn-", i), nil)
				if err == nil {
					err = r.a.RemovePod(t.Context(), pod.ID)
				}
				failed <- err
			}
		}()
	}
	for range crashes {
		r.killAgent(t, r.a)
		r.startAgent(t, r.a)
		r.awaitAgent(t, r.a)
	}
	for range workers {
		<-done
	}
	close(failed)
	for err := range failed {
		if err != nil {
			t.Errorf("a pod that the agent's crash cost: %v", err)
		}
	}
	r.onlyPods(t, r.a)
	r.agree(t, r.a)
}
