package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestCNIFamilies has containers of one family on a host that has both, in every version of the specification, as the network or the
// pod says. The other family is not there at all.
func TestCNIFamilies(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	before := h.census(box)
	for _, version := range relay.SupportedVersions() {
		for _, c := range []struct{ network, pod, gets string }{{"ipv6", "", "6"}, {"ipv4", "ipv6", "6"}, {"", "ipv4", "4"}, {"ipv6", "dual", "46"}} {
			conf := map[string]any{"family": c.network, "capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true}}
			annotations := ""
			if c.pod != "" {
				annotations = `{"io.kubernetes.cri.pod-annotations": {"hostfabric.io/family": "` + c.pod + `"}}`
			}
			n := h.newNetwork(version, h.plugin(conf))
			r := result(t, n.do("add", box, annotations))
			checkResult(t, r, version, h.ns, box)
			addrs := addresses(t, r)
			for _, family := range []string{"4", "6"} {
				wanted := strings.Contains(c.gets, family)
				has := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == (family == "4") })
				routes := output(t, box, "ip", "-"+family, "route", "show", "default")
				if global := output(t, box, "ip", "-"+family, "address", "show", "dev", "eth0", "scope", "global"); has != wanted || (global != "") != wanted || (routes != "") != wanted {
					t.Errorf("%s, network %q, pod %q: result has IPv%s: %t; the container has %q and the default %q", version, c.network, c.pod, family, has, global, routes)
				}
			}
			h.reach(box, addrs...)
			if version != "0.3.1" { // CHECK came with 0.4.0
				n.do("check", box, annotations)
			}
			n.do("del", box, annotations)
			h.unchanged(before, box)
		}
	}
	h.agrees()
}

// TestCNIHostOfOneFamily: what a host does not have is not given, and asking for it is refused.
func TestCNIHostOfOneFamily(t *testing.T) {
	h := newHost(t, block6)
	box := nstest.New(t, "box")
	before := h.census(box)
	addrs := h.add("six", "eth0", box, nil)
	if len(addrs) != 1 || !addrs[0].Is6() {
		t.Errorf("a container on a host with %s has %v", block6, addrs)
	}
	if routes := output(t, box, "ip", "-4", "route", "show", "table", "all", "dev", "eth0"); routes != "" {
		t.Errorf("it has routes of IPv4: %s", routes)
	}
	h.reach(box, addrs...)
	h.check("six", "eth0", box, nil)
	_, err := h.try(request{verb: relay.Add, id: "four", iface: "eth1", netns: box.Path(), conf: h.single(map[string]any{"family": "ipv4"})})
	if err == nil || err.Code != relay.CodeInvalidConfig || !strings.Contains(err.Error(), "ipv4") {
		t.Errorf("IPv4 on a host that has none: %v, want code %d", err, relay.CodeInvalidConfig)
	}
	h.agrees("six")
	h.do(request{verb: relay.Del, id: "six", netns: box.Path()})
	h.unchanged(before, box)
}
