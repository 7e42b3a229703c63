package endpoint_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func second(ns netns.NS, id string, addrs ...string) endpoint.Spec {
	s := spec(ns, id, addrs...)
	s.HostLink, s.ContainerLink, s.Alias = endpoint.HostLink(id, "eth1"), "eth1", alias(id, "eth1")
	return s
}

// TestSecondInterface: the first keeps the default route, the second answers by itself, and Inspect knows both.
func TestSecondInterface(t *testing.T) {
	w, _ := newWirer(t)
	box := nstest.New(t, "box")
	specs := []endpoint.Spec{
		spec(box, "two", "10.64.0.1", "2001:db8:64::1"),
		second(box, "two", "10.64.0.2", "2001:db8:64::2"),
	}
	for _, s := range specs {
		wire(t, w, s)
	}
	for _, s := range specs {
		if _, err := w.Inspect(t.Context(), s); err != nil {
			t.Errorf("as wired: %v", err)
		}
	}
	for _, tc := range []struct{ to, from, dev string }{
		{"198.51.100.1", "", "eth0"}, {"198.51.100.1", "10.64.0.1", "eth0"}, {"198.51.100.1", "10.64.0.2", "eth1"},
		{"2001:db8::1", "", "eth0"}, {"2001:db8::1", "2001:db8:64::1", "eth0"}, {"2001:db8::1", "2001:db8:64::2", "eth1"},
	} {
		args := []string{"route", "get", tc.to}
		if tc.from != "" {
			args = append(args, "from", tc.from)
		}
		if out := ip(t, box, args...); !strings.Contains(out, " dev "+tc.dev+" ") {
			t.Errorf("to %s from %q: %s, want %s", tc.to, tc.from, out, tc.dev)
		}
	}
	for _, tc := range []struct {
		change []string
		names  string
	}{
		{[]string{"rule", "del", "from", "10.64.0.2"}, "no rule from 10.64.0.2/32"},
		{[]string{"-6", "rule", "del", "from", "2001:db8:64::2"}, "no rule from 2001:db8:64::2/128"},
	} {
		ip(t, box, tc.change...)
		if _, err := w.Inspect(t.Context(), specs[1]); !errors.Is(err, endpoint.ErrMismatch) || !strings.Contains(err.Error(), tc.names) {
			t.Errorf("after ip %v: %v, want %q", tc.change, err, tc.names)
		}
	}
	if _, err := w.Inspect(t.Context(), specs[0]); err != nil {
		t.Errorf("the first suffers from what is wrong with the second: %v", err)
	}
}

// TestSecondToAnotherPlugin: the interface that has the default route need not be ours, nor have both families.
func TestSecondToAnotherPlugin(t *testing.T) {
	w, host := newWirer(t)
	box := nstest.New(t, "box")
	err := netns.Cable(netns.End{NS: host, Link: "other", Addresses: []string{"192.0.2.1/24"}}, netns.End{NS: box, Link: "eth0", Addresses: []string{"192.0.2.2/24"}})
	if err != nil {
		t.Fatal(err)
	}
	ip(t, box, "route", "add", "default", "via", "192.0.2.1")
	s := second(box, "other", "10.64.0.2", "2001:db8:64::2")
	wire(t, w, s)
	if _, err := w.Inspect(t.Context(), s); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct{ to, dev string }{{"198.51.100.1", "eth0"}, {"2001:db8::1", "eth1"}} {
		if out := ip(t, box, "route", "get", tc.to); !strings.Contains(out, " dev "+tc.dev+" ") {
			t.Errorf("to %s: %s, want %s", tc.to, out, tc.dev)
		}
	}
}
