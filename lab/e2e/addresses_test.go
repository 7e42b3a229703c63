package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// ask attaches a container by the API, wanting these addresses.
func (h *host) ask(id string, box netns.NS, wanted ...string) ([]netip.Addr, error) {
	resp, err := h.client.Attach(h.t.Context(), &apiv1.AttachRequest{ContainerId: id, Interface: "eth0", Netns: box.Path(), Addresses: wanted})
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range resp.GetEndpoint().GetAddresses() {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

func (h *host) mustAttach(id string, box netns.NS, wanted ...string) []netip.Addr {
	h.t.Helper()
	addrs, err := h.ask(id, box, wanted...)
	if err != nil {
		h.t.Fatal(err)
	}
	return addrs
}

func (h *host) detach(id string) {
	h.t.Helper()
	if _, err := h.client.Detach(h.t.Context(), &apiv1.DetachRequest{ContainerId: id, Interface: "eth0"}); err != nil {
		h.t.Fatal(err)
	}
}

// problem waits until the status names a problem.
func (h *host) problem(text string) {
	h.t.Helper()
	h.eventually("the status says "+text, func() error {
		s, err := h.client.GetStatus(h.t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !strings.Contains(strings.Join(s.GetProblems(), "\n"), text) {
			err = fmt.Errorf("problems: %q", s.GetProblems())
		}
		return err
	})
}

// discards wants just these discard routes in the host's kernel.
func (h *host) discards(want ...string) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("the discard routes are %v", want), func() error {
		var have []string
		for line := range strings.Lines(output(h.t, h.ns, "ip", "-4", "route", "show", "type", "blackhole")) {
			have = append(have, strings.Fields(line)[1])
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("they are %v", have)
		}
		return nil
	})
}

// TestRemovedBlockDrains takes a block out of the configuration while a container has an address of it.
func TestRemovedBlockDrains(t *testing.T) {
	first, second := netip.MustParsePrefix("10.64.0.0/28"), netip.MustParsePrefix("10.64.0.16/28")
	h := newHost(t, first, second)
	h.discards("10.64.0.0/27")
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	old := h.mustAttach("old", box, "10.64.0.20")
	h.stop()
	h.configure([]netip.Prefix{first})
	h.start()
	h.discards("10.64.0.0/27") // as it is announced
	h.reach(box, old...)
	if out := h.hostfabric("blocks"); !strings.Contains(out, "released") {
		t.Errorf("blocks prints\n%s\nwithout a released one", out)
	}
	if _, err := h.ask("wants", other, "10.64.0.21"); err == nil || !strings.Contains(err.Error(), "is draining") {
		t.Errorf("attach with an address of a block that drains: %v", err)
	}
	if addrs := h.mustAttach("new", other); !first.Contains(addrs[0]) {
		t.Errorf("a new container got %v, want an address of %v", addrs, first)
	}
	h.detach("old")
	h.discards("10.64.0.0/28")
	h.reach(other, h.mustAttach("new", other)...)
}

// TestLostLeaseFile removes the lease file under living containers.
func TestLostLeaseFile(t *testing.T) {
	h := newHost(t, block4, block6)
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	addrs := h.mustAttach("web", box)
	h.stop()
	if err := os.Remove(filepath.Join(h.dir, "state", "leases")); err != nil {
		t.Fatal(err)
	}
	h.startUnready()
	h.reach(box, addrs...)
	h.problem("is in use without a lease, and not handed out: container web/eth0")
	for i := range 13 { // all that there are, but the host's own and the one in use
		id := fmt.Sprintf("c%d", i)
		if got := h.mustAttach(id, other); slices.Contains(got, addrs[0]) || slices.Contains(got, addrs[1]) {
			t.Fatalf("%s got %v, of which web has %v", id, got, addrs)
		}
		h.detach(id)
	}
	h.reach(box, addrs...)
	h.detach("web")
	h.eventually("nothing is in use without a lease any more", func() error {
		s, err := h.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !s.GetReady() {
			err = fmt.Errorf("problems: %q", s.GetProblems())
		}
		return err
	})
}

// TestAddressUsedByOthers has something else on the host use addresses of its block.
func TestAddressUsedByOthers(t *testing.T) {
	h := newHost(t, block4)
	box := nstest.New(t, "box")
	output(t, h.ns, "ip", "link", "add", "name", "br0", "up", "type", "bridge")
	output(t, h.ns, "ip", "address", "add", "10.64.0.8/29", "dev", "br0")
	output(t, h.ns, "ip", "address", "add", "10.64.0.1/32", "dev", "lo")
	for i := range 12 { // six addresses are left: each comes twice
		id := fmt.Sprintf("c%d", i)
		got := h.mustAttach(id, box)
		if got[0] == netip.MustParseAddr("10.64.0.1") || netip.MustParsePrefix("10.64.0.8/29").Contains(got[0]) {
			t.Fatalf("%s got %v, which something else uses", id, got)
		}
		h.detach(id)
	}
	if _, err := h.ask("wants", box, "10.64.0.1"); err == nil || !strings.Contains(err.Error(), "address of lo") {
		t.Errorf("attach with an address of lo: %v", err)
	}
	h.problem("br0")
	h.problem("address of lo")
	output(t, h.ns, "ip", "link", "delete", "br0")
	output(t, h.ns, "ip", "address", "delete", "10.64.0.1/32", "dev", "lo")
	h.eventually("nothing else uses addresses any more", func() error {
		s, err := h.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !s.GetReady() {
			err = fmt.Errorf("problems: %q", s.GetProblems())
		}
		return err
	})
	h.reach(box, h.mustAttach("late", box, "10.64.0.9")...)
}

// TestFullStateDirectory has the file system of the lease file run full, and then have room again.
func TestFullStateDirectory(t *testing.T) {
	h := newHost(t, netip.MustParsePrefix("10.64.0.0/20"))
	h.stop()
	state := filepath.Join(h.dir, "state")
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h.startUnready() // the file cannot grow ahead of need, which it says
	box := nstest.New(t, "box")
	kept := map[string]netip.Addr{}
	var failure error
	for i := range 100 {
		id := fmt.Sprintf("c%d", i)
		addrs, err := h.ask(id, nstest.New(t, id))
		if err != nil {
			failure = err
			break
		}
		kept[id] = addrs[0]
	}
	if failure == nil || !strings.Contains(failure.Error(), "lease file not writable") || !strings.Contains(failure.Error(), "no space left on device") {
		t.Fatalf("after %d containers: %v, want it to say that there is no space", len(kept), failure)
	}
	if _, failure := h.try(request{verb: relay.Add, id: "cni", netns: box.Path()}); failure == nil || failure.Code != relay.CodeIO || !strings.Contains(failure.Details, "no space left on device") {
		t.Errorf("CNI ADD on a full file system: %v", failure)
	}
	if got := len(h.leases()); got != len(kept) {
		t.Errorf("%d leases, want the %d from before", got, len(kept))
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	addr := h.mustAttach("late", box)
	h.reach(box, addr...)
	for id, addr := range kept {
		if !slices.Contains(h.leases(), addr.String()+" "+id+"/eth0") {
			t.Errorf("the lease of %s is gone", id)
		}
	}
}

// TestConnectionsEndWithTheAddress: what the kernel tracks of a container's connections is forgotten before its address can be
// given again.
func TestConnectionsEndWithTheAddress(t *testing.T) {
	h := newHost(t, block4, block6)
	for _, iptables := range []string{"iptables", "ip6tables"} { // a rule that looks at connections has the kernel track them
		output(t, h.ns, iptables, "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "ACCEPT")
	}
	tracked := func(addr netip.Addr) bool {
		for line := range strings.Lines(output(t, h.ns, "cat", "/proc/net/nf_conntrack")) {
			for _, field := range strings.Fields(line) {
				_, value, _ := strings.Cut(field, "=")
				if a, err := netip.ParseAddr(value); err == nil && a == addr {
					return true
				}
			}
		}
		return false
	}
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	goes, stays := h.mustAttach("goes", box), h.mustAttach("stays", other)
	h.reach(box, goes...)
	h.reach(other, stays...)
	for _, addr := range append(goes, stays...) {
		if !tracked(addr) {
			t.Fatalf("no connection of %v is tracked", addr)
		}
	}
	h.detach("goes")
	h.eventually("the lease has ended", func() error {
		if leases := h.leases(); len(leases) != len(stays) {
			return fmt.Errorf("leases %v", leases)
		}
		return nil
	})
	for i, addr := range goes {
		if tracked(addr) {
			t.Errorf("a connection of %v outlives its lease", addr)
		}
		if !tracked(stays[i]) {
			t.Errorf("the connections of %v are gone too", stays[i])
		}
	}
}
