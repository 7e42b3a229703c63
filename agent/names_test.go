package agent_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
)

// TestNamesFollowEndpoints: what is published is there when a verb returns, not later.
func TestNamesFollowEndpoints(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	first := newRig(t, file, wirer, "10.64.0.0/26")
	web, key := request("web"), request("web").Key
	web.Description = agent.Description{Name: "web-1"}
	want := func(r *rig, when, what string) {
		t.Helper()
		if got := r.names.of(key); got != what {
			t.Errorf("%s %s is published, want %s", when, got, what)
		}
	}
	if _, err := first.Attach(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	want(first, "after the attach", "web-1[10.64.0.0]")
	if err := first.Describe(t.Context(), key, agent.Description{Name: "web-2"}); err != nil {
		t.Fatal(err)
	}
	want(first, "with another name", "web-2[10.64.0.0]")
	if _, err := first.Attach(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	want(first, "after a repeated attach", "web-1[10.64.0.0]")
	first.stop()

	second := newRig(t, file, wirer, "10.64.0.0/26")
	want(second, "after a restart", "[10.64.0.0]") // the rig keeps no notes
	if _, err := second.Detach(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	want(second, "after the detach", "nothing")

	second.wirer.mu.Lock()
	second.wirer.wireErr = errors.New("no link today")
	second.wirer.mu.Unlock()
	if _, err := second.Attach(t.Context(), web); err == nil {
		t.Fatal("attached without a link")
	}
	want(second, "after an attach that failed", "nothing")
}
