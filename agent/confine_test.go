package agent_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/firewall"
)

// TestUnconfined has the firewall fail: no container comes that could pretend to be another, and those that are there go on.
func TestUnconfined(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	old := r.attach(t, "old")
	if got, want := r.Status(t.Context()).Dropped, (firewall.Dropped{SpoofedIPv4: 4, SpoofedIPv6: 6, Closed: 1}); got != want {
		t.Errorf("the status has %+v, want %+v", got, want)
	}
	r.firewall.spoil(errors.New("the kernel has none"))
	if _, err := r.Attach(t.Context(), request("new")); !errors.Is(err, agent.ErrNotReady) || !strings.Contains(err.Error(), "the kernel has none") {
		t.Errorf("an attach while containers are not confined: %v, want it not ready", err)
	}
	if err := r.Ready(t.Context()); !errors.Is(err, agent.ErrNotReady) {
		t.Errorf("ready: %v", err)
	}
	if problems := r.Status(t.Context()).Problems; !slices.Contains(problems, "no container is attached: the kernel has none") {
		t.Errorf("problems %q", problems)
	}
	if again := r.attach(t, "old"); !slices.Equal(again.Addresses, old.Addresses) {
		t.Errorf("a repeated attach gave %v, want %v", again.Addresses, old.Addresses)
	}
	if found, err := r.Detach(t.Context(), old.Key); err != nil || !found {
		t.Errorf("detach: %v, %v", found, err)
	}
	r.firewall.spoil(nil)
	r.attach(t, "new")
}
