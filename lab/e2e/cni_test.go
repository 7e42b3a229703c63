package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestCNITool goes through every verb as the reference runtime library sends them.
func TestCNITool(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	n := h.newNetwork("1.1.0", h.plugin(nil))
	before := h.census(box)

	n.do("status", box, "")
	r := result(t, n.do("add", box, ""))
	checkResult(t, r, "1.1.0", h.ns, box)
	addrs := addresses(t, r)
	if len(addrs) != 2 || !block4.Contains(addrs[0]) || !block6.Contains(addrs[1]) {
		t.Fatalf("addresses are %v, want one of %v and one of %v", addrs, block4, block6)
	}
	if dns := r.DNS; !slices.Equal(dns.Nameservers, []string{block4.Addr().String(), block6.Addr().String()}) ||
		dns.Domain != "e2e.fabric.internal" || !slices.Equal(dns.Search, []string{"e2e.fabric.internal", "fabric.internal"}) {
		t.Errorf("resolvers are %+v, want the host", dns)
	}
	h.reach(box, addrs...)
	n.do("check", box, "")
	if again := addresses(t, result(t, n.do("add", box, ""))); !slices.Equal(again, addrs) {
		t.Errorf("a repeated ADD gives %v, the first gave %v", again, addrs)
	}

	output(t, box, "ip", "address", "del", addrs[0].String()+"/32", "dev", "eth0")
	if _, err := n.try("check", box, ""); err == nil || !strings.Contains(err.Error(), addrs[0].String()) {
		t.Errorf("CHECK after %s was removed: %v", addrs[0], err)
	}

	n.do("del", box, "")
	h.unchanged(before, box)
	n.do("del", box, "") // a second one is no error

	n.do("add", box, "")
	n.do("gc", box, "")
	h.unchanged(before, box)
}

// checkResult compares a result with what is in the kernel.
func checkResult(t *testing.T, r *types100.Result, version string, host, box netns.NS) {
	t.Helper()
	if r.CNIVersion != version || len(r.Interfaces) != 2 {
		t.Fatalf("result has version %q and %d interfaces, want %q and 2", r.CNIVersion, len(r.Interfaces), version)
	}
	for i, ns := range []netns.NS{host, box} {
		have := r.Interfaces[i]
		err := ns.Do(func() error {
			link, err := net.InterfaceByName(have.Name)
			if err == nil && (link.HardwareAddr.String() != have.Mac || version == "1.1.0" && link.MTU != have.Mtu) {
				err = fmt.Errorf("MAC is %s, MTU %d; result has %s, %d", link.HardwareAddr, link.MTU, have.Mac, have.Mtu)
			}
			return err
		})
		if err != nil {
			t.Errorf("interface %s: %v", have.Name, err)
		}
	}
	if in := r.Interfaces[1]; in.Name != "eth0" || in.Sandbox != box.Path() || r.Interfaces[0].Sandbox != "" {
		t.Errorf("interfaces are %+v and %+v, want the host's and eth0 in %s", r.Interfaces[0], in, box.Path())
	}
	for i, ip := range r.IPs {
		route, gateway := r.Routes[i], "169.254.1.1"
		if ip.Address.IP.To4() == nil {
			gateway = "fe80::1"
		}
		bits, of := ip.Address.Mask.Size()
		if bits != of || ip.Interface == nil || *ip.Interface != 1 || ip.Gateway.String() != gateway {
			t.Errorf("address is %+v, want a host route on interface 1 via %s", ip, gateway)
		}
		if ones, _ := route.Dst.Mask.Size(); ones != 0 || route.GW.String() != gateway {
			t.Errorf("route is %+v, want the default via %s", route, gateway)
		}
	}
}

// TestCNISecondDEL is containerd's and the kubelet's habit: another DEL, with no namespace and no prevResult.
func TestCNISecondDEL(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	before := h.census(box)
	h.add("second", "eth0", box, nil)
	for _, netns := range []string{box.Path(), "", "", box.Path() + "-gone"} {
		if out := h.do(request{verb: relay.Del, id: "second", netns: netns}); len(out) != 0 {
			t.Errorf("DEL prints %q", out)
		}
	}
	h.unchanged(before, box)

	h.add("first", "eth0", box, nil)
	h.do(request{verb: relay.Del, id: "first"}) // the only one, without a namespace
	h.unchanged(before, box)
}

// TestCNIGC removes what the list of one network lacks, and nothing else.
func TestCNIGC(t *testing.T) {
	h := newHost(t, block4, block6)
	red, blue := h.single(map[string]any{"name": "red"}), h.single(map[string]any{"name": "blue"})
	boxes, addrs := map[string]netns.NS{}, map[string][]netip.Addr{}
	for _, id := range []string{"red1", "red2", "blue1", "api1"} {
		boxes[id] = nstest.New(t, id)
	}
	addrs["red1"] = h.add("red1", "eth0", boxes["red1"], red)
	addrs["red2"] = h.add("red2", "eth0", boxes["red2"], red)
	addrs["blue1"] = h.add("blue1", "eth0", boxes["blue1"], blue)
	resp, err := h.client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "api1", Interface: "eth0", Netns: boxes["api1"].Path()})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range resp.GetEndpoint().GetAddresses() {
		addrs["api1"] = append(addrs["api1"], netip.MustParseAddr(a))
	}
	attachment := func(id string) map[string]any { return map[string]any{"containerID": id, "ifname": "eth0"} }
	for _, step := range []struct {
		name  string
		valid any
		left  []string
	}{
		{"no list", nil, []string{"api1", "blue1", "red1", "red2"}},
		{"list", []any{attachment("red1")}, []string{"api1", "blue1", "red1"}},
		{"empty list", []any{}, []string{"api1", "blue1"}},
	} {
		conf := h.single(map[string]any{"name": "red"})
		if step.valid != nil {
			conf["cni.dev/valid-attachments"] = step.valid
		}
		h.do(request{verb: relay.GC, conf: conf})
		h.eventually("after GC with "+step.name, func() error {
			if left := h.containers(t.Context()); !slices.Equal(left, step.left) {
				return fmt.Errorf("attached are %q, want %q", left, step.left)
			}
			return nil
		})
		for _, id := range step.left {
			h.reach(boxes[id], addrs[id]...) // at once: a detached one is already out of reach when its lease is still held
		}
	}
}

// containers lists who holds leases.
func (h *host) containers(ctx context.Context) []string {
	h.t.Helper()
	resp, err := h.client.ListLeases(ctx, &apiv1.ListLeasesRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	var ids []string
	for _, l := range resp.GetLeases() {
		if l.GetContainerId() != "" {
			ids = append(ids, l.GetContainerId())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// TestCNIVersions has the reference runtime library use each version of the specification that we claim.
func TestCNIVersions(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	before := h.census(box)
	var about struct{ SupportedVersions []string }
	if err := json.Unmarshal(h.do(request{verb: relay.Version}), &about); err != nil || !slices.Equal(about.SupportedVersions, relay.SupportedVersions()) {
		t.Fatalf("VERSION says %v, %v; want %v", about.SupportedVersions, err, relay.SupportedVersions())
	}
	for _, version := range about.SupportedVersions {
		n := h.newNetwork(version, h.plugin(nil))
		out := n.do("add", box, "")
		if r, err := create.Create(version, out); err != nil || r.Version() != version || !strings.Contains(string(out), `"cniVersion": "`+version+`"`) {
			t.Errorf("%s: result is %s, %v", version, out, err)
		}
		if version != "0.3.1" { // CHECK came with 0.4.0
			n.do("check", box, "")
		}
		n.do("del", box, "")
		h.unchanged(before, box)
	}
}
