package sysctl_test

import (
	"os"
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

func TestStrictReversePath(t *testing.T) {
	ns := nstest.New(t, "host")
	err := ns.Do(func() error {
		for _, c := range []struct {
			all, own string
			strict   bool
		}{{"0", "0", false}, {"0", "1", true}, {"1", "0", true}, {"1", "1", true}, {"1", "2", false}, {"2", "1", false}} {
			for link, value := range map[string]string{"all": c.all, "lo": c.own} {
				if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte(value), 0); err != nil {
					return err
				}
			}
			if got := sysctl.StrictReversePath([]string{"lo", "gone"}); (len(got) == 1) != c.strict {
				t.Errorf("all %s, lo %s: %q", c.all, c.own, got)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
