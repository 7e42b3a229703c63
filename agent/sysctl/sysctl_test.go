package sysctl_test

import (
	"testing"

	"github.com/hostfabric/hostfabric/agent/sysctl"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func TestForwarding(t *testing.T) {
	ns := nstest.New(t, "host")
	err := ns.Do(func() error {
		if err := sysctl.CheckForwarding(false, false); err != nil {
			t.Errorf("no family wanted: %v", err)
		}
		if err := sysctl.EnableForwarding(true, false); err != nil {
			t.Error(err)
		}
		if err := sysctl.CheckForwarding(true, false); err != nil {
			t.Errorf("IPv4 after it was turned on: %v", err)
		}
		if err := sysctl.CheckForwarding(true, true); err == nil {
			t.Error("IPv6 forwarding was turned on without being asked for")
		}
		if err := sysctl.EnableForwarding(true, true); err != nil {
			t.Error(err)
		}
		return sysctl.CheckForwarding(true, true)
	})
	if err != nil {
		t.Fatal(err)
	}
}
