package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/ipam/etcd/etcdtest"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// pool is 16 blocks of 16 addresses, and one more pool beside it.
const claimed = `source: etcd
etcd: {endpoints: ["%s"]}
pools:
  - {name: default, prefixes: [10.64.0.0/24], block_ipv4: 28}
  - {name: gold, prefixes: [10.80.0.0/24, "fd00:80::/60"], block_ipv4: 28, block_ipv6: 64}
%s`

// newClaimingHost starts an agent whose blocks come from etcd.
func newClaimingHost(t testing.TB, name string, etcd *etcdtest.Server, more string) *host {
	t.Helper()
	return startHost(t, name, func(h *host) { h.write(fmt.Sprintf(claimed, etcd.Endpoint(), more)) })
}

// blocks are the host's blocks as "PREFIX STATE".
func (h *host) blocks() []string {
	h.t.Helper()
	var resp struct {
		Blocks []struct{ Prefix, State string }
	}
	if err := json.Unmarshal([]byte(h.hostfabric("blocks", "-o", "json")), &resp); err != nil {
		h.t.Fatal(err)
	}
	var all []string
	for _, b := range resp.Blocks {
		all = append(all, b.Prefix+" "+b.State)
	}
	return all
}

func (h *host) awaitBlocks(want ...string) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%s has the blocks %v", h.name, want), func() error {
		if have := h.blocks(); !slices.Equal(have, want) {
			return fmt.Errorf("it has %v", have)
		}
		return nil
	})
}

// claims are all claims in etcd as "PREFIX HOST".
func (h *host) claims(args ...string) []string {
	h.t.Helper()
	var all []string
	for line := range strings.Lines(h.hostfabric(append([]string{"blocks", "claims"}, args...)...)) {
		if f := strings.Fields(line); f[0] != "BLOCK" {
			all = append(all, f[0]+" "+f[2])
		}
	}
	return all
}

// TestClaimsThroughLife follows the claims of two hosts from their first start to their end.
func TestClaimsThroughLife(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Unix: true})
	one := newClaimingHost(t, "one", etcd, "")
	one.awaitBlocks("10.64.0.0/28 open")
	two := newClaimingHost(t, "two", etcd, "")
	two.awaitBlocks("10.64.0.128/28 open") // as far from the other as can be
	if got, want := one.claims(), []string{"10.64.0.0/28 one", "10.64.0.128/28 two"}; !slices.Equal(got, want) {
		t.Errorf("claims %v, want %v", got, want)
	}

	// A pool that nobody has asked for yet is claimed for the first container that does, in both of its families.
	box := nstest.New(t, "box")
	resp, err := one.client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "gold", Interface: "eth0", Netns: box.Path(), Pool: "gold"})
	if err != nil {
		t.Fatal(err)
	}
	addrs := resp.GetEndpoint().GetAddresses()
	if len(addrs) != 2 || !strings.HasPrefix(addrs[0], "10.80.0.") || !strings.HasPrefix(addrs[1], "fd00:80:") {
		t.Errorf("addresses of pool gold: %v", addrs)
	}
	one.awaitBlocks("10.64.0.0/28 open", "10.80.0.0/28 open", "fd00:80::/64 open")
	if out := one.hostfabric("leases", "--pool", "gold"); strings.Count(out, "gold") < 2 || strings.Contains(out, "10.64") {
		t.Errorf("leases of pool gold:\n%s", out)
	}
	if out := one.hostfabric("blocks"); !strings.Contains(out, "10.64.0.16/28:free") {
		t.Errorf("blocks prints\n%s\nwithout the free sibling", out)
	}
	if _, err := one.client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "x", Interface: "eth0", Netns: box.Path(), Pool: "lead"}); err == nil || !strings.Contains(err.Error(), "lead") {
		t.Errorf("attach to a pool that is not there: %v", err)
	}

	// Claims survive a restart, and a start without etcd.
	etcd.Kill()
	one.stop()
	one.startUnready()
	one.awaitBlocks("10.64.0.0/28 open", "10.80.0.0/28 open", "fd00:80::/64 open")
	one.problem("source of blocks cannot be reached")
	plain := nstest.New(t, "plain")
	one.mustAttach("plain", plain)
	etcd.Restart()
	one.eventually("all is well", func() error {
		s, err := one.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && !s.GetReady() {
			err = fmt.Errorf("problems: %q", s.GetProblems())
		}
		return err
	})

	// A block that an operator releases goes with its last lease, and another takes its place.
	one.hostfabric("blocks", "release", "10.64.0.0/28")
	one.awaitBlocks("10.64.0.0/28 released", "10.64.0.16/28 open", "10.80.0.0/28 open", "fd00:80::/64 open")
	one.detach("plain")
	one.awaitBlocks("10.64.0.16/28 open", "10.80.0.0/28 open", "fd00:80::/64 open")
	if got := one.claims("--host", "one"); len(got) != 3 {
		t.Errorf("claims of one after the release: %v", got)
	}

	// A dead host's claims are deleted by another.
	two.stop()
	one.hostfabric("blocks", "release", "--host", "two")
	if got := one.claims("--host", "two"); len(got) != 0 {
		t.Errorf("claims of two after its release: %v", got)
	}
	two.start() // it was not dead after all, and nobody took its block
	two.awaitBlocks("10.64.0.128/28 open")
	if got, want := one.claims("--host", "two"), []string{"10.64.0.128/28 two"}; !slices.Equal(got, want) {
		t.Errorf("claims of two, which came back: %v, want %v", got, want)
	}

	// A host that leaves the fabric gives all back, and takes no more.
	two.hostfabric("blocks", "release", "--all")
	two.awaitBlocks()
	if _, err := two.ask("late", plain); err == nil {
		t.Error("a host that has left gives an address")
	}
	if got := one.claims("--host", "two"); len(got) != 0 {
		t.Errorf("claims of two, which has left: %v", got)
	}
}

// TestTwoInstallationsOfOneName: a host that was set up anew does not take over its earlier claims, which another may still
// use, and says so.
func TestTwoInstallationsOfOneName(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Unix: true})
	h := newClaimingHost(t, "same", etcd, "")
	h.awaitBlocks("10.64.0.0/28 open")
	h.stop()
	if err := os.RemoveAll(filepath.Join(h.dir, "state")); err != nil {
		t.Fatal(err)
	}
	h.startUnready()
	h.awaitBlocks("10.64.0.128/28 open")
	h.problem("are claimed by another installation of host same")
}

// TestFromStaticToEtcd switches a host with a living container from static blocks to etcd, where another host was faster for
// one of them.
func TestFromStaticToEtcd(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Unix: true})
	first, second := netip.MustParsePrefix("10.64.0.32/28"), netip.MustParsePrefix("10.64.0.128/28")
	h := startHost(t, "mover", func(h *host) { h.configure([]netip.Prefix{first, second}) })
	box := nstest.New(t, "box")
	addrs := h.mustAttach("web", box)
	newClaimingHost(t, "faster", etcd, "").awaitBlocks("10.64.0.0/28 open")
	other := newClaimingHost(t, "fastest", etcd, "")
	other.awaitBlocks("10.64.0.128/28 open")

	h.stop()
	h.write(fmt.Sprintf(claimed, etcd.Endpoint(), "blocks: [10.64.0.32/28, 10.64.0.128/28]\n"))
	h.startUnready()
	h.awaitBlocks("10.64.0.32/28 open", "10.64.0.128/28 lost")
	h.problem("block 10.64.0.128/28 is claimed by another host")
	h.reachFrom(first.Addr(), box, addrs[0])
	if got, want := h.claims("--host", "mover"), []string{"10.64.0.32/28 mover"}; !slices.Equal(got, want) {
		t.Errorf("claims of mover: %v, want %v", got, want)
	}
}
