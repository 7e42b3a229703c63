package containerd_test

import "testing"

// TestContainerd has one fabric for all, which leave nothing behind.
func TestContainerd(t *testing.T) {
	r := newRig(t)
	t.Run("ctr", r.testCtr)
	t.Run("sandboxes", r.testSandboxes)
	t.Run("collect", r.testCollect)
	t.Run("pods", r.testPods)
	t.Run("annotations", r.testAnnotations)
	t.Run("containerd killed", r.testRuntimeCrash)
	t.Run("containerd killed again and again", r.testRuntimeCrashes)
	t.Run("agent away", r.testAgentAway)
	t.Run("agent killed again and again", r.testAgentCrashes)
}
