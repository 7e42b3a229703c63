package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestCNITwoInterfaces gives one container two interfaces, as Multus does. Each must answer by itself: the host checks
// strictly that packets come in where it would send the answer.
func TestCNITwoInterfaces(t *testing.T) {
	h := newHost(t, block4, block6)
	output(t, h.ns, "sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/conf/*/rp_filter")
	box := nstest.New(t, "box")
	before := h.census(box)

	first := h.add("pair", "eth0", box, nil)
	second := result(t, h.do(request{verb: relay.Add, id: "pair", iface: "eth1", netns: box.Path()}))
	h.reach(box, first...)
	h.reach(box, addresses(t, second)...)
	wayOut(t, box, "eth0")
	h.check("pair", "eth0", box, nil)
	h.check("pair", "eth1", box, second)

	for range 3 { // whatever the second interface left in the container must not be in the way of the next
		h.do(request{verb: relay.Del, id: "pair", iface: "eth1", netns: box.Path()})
		h.reach(box, first...)
		h.reach(box, h.add("pair", "eth1", box, nil)...)
	}
	for _, family := range []string{"-4", "-6"} {
		if rules := output(t, box, "ip", family, "rule", "show", "pref", "30000"); strings.Count(rules, "\n") != 1 {
			t.Errorf("four eth1 one after the other left these rules, want one:\n%s", rules)
		}
	}
	third := addresses(t, result(t, h.do(request{verb: relay.Add, id: "pair", iface: "eth1", netns: box.Path()})))
	h.do(request{verb: relay.Del, id: "pair", iface: "eth0", netns: box.Path()})
	h.eventually("eth0 is gone", func() error {
		if box.HasLink("eth0") {
			return fmt.Errorf("%s has it", box.Name)
		}
		return nil
	})
	wayOut(t, box, "eth1")
	h.reach(box, third...)
	h.do(request{verb: relay.Del, id: "pair", iface: "eth1", netns: box.Path()})
	h.unchanged(before, box)
}

// wayOut wants the container's default routes to use the link.
func wayOut(t *testing.T, box netns.NS, link string) {
	t.Helper()
	for _, to := range []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")} {
		if out := output(t, box, "ip", "route", "get", to.String()); !strings.Contains(out, " dev "+link+" ") {
			t.Errorf("%s is reached by %q, want dev %s", to, out, link)
		}
	}
}
