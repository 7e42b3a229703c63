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
	"github.com/hostfabric/hostfabric/lab/netns"
)

const readySandboxes = 4

// TestSandboxes uses ready namespaces as runtimes do, over a crash of the agent and a change of its configuration.
func TestSandboxes(t *testing.T) {
	h := startHost(t, "e2e", func(h *host) {
		h.write(fmt.Sprintf("blocks: [%[1]q, %[2]q]\nsandboxes: {low: %[3]d, high: %[3]d}\n", block4, block6, readySandboxes))
	})
	h.awaitSandboxes(0)

	path := strings.TrimSpace(h.hostfabric("sandbox", "acquire", "job1", "--name", "web-1", "--label", "app=shop", "--path"))
	job1 := h.sandboxOf("job1")
	if ep := job1.GetEndpoint(); ep.GetNetns() != path || ep.GetName() != "web-1" || ep.GetLabels()["app"] != "shop" || ep.GetOwner() != "sandbox" {
		t.Errorf("acquired %v, the path printed is %s", job1, path)
	}
	h.reachSandbox(job1)
	inside := output(t, h.ns, "nsenter", "--net="+path, "ip", "-br", "address")
	for _, want := range append(slices.Clone(job1.GetEndpoint().GetAddresses()), "127.0.0.1") {
		if !strings.Contains(inside, want+"/") {
			t.Errorf("inside there is no %s:\n%s", want, inside)
		}
	}
	if endpoints := h.hostfabric("endpoints", "--label", "app=shop"); !strings.Contains(endpoints, "web-1") {
		t.Errorf("endpoints of the label:\n%s", endpoints)
	}
	conf := job1.GetResolvConf()
	if text, err := os.ReadFile(conf); conf != h.run("resolv.conf") || err != nil ||
		!strings.Contains(string(text), "nameserver 10.64.0.0\nnameserver fd00:64::\nsearch e2e.fabric.internal fabric.internal\n") {
		t.Errorf("containers are to mount %q: %q, %v", conf, text, err)
	}
	job2 := h.sandboxOf("job2")
	if job2.GetId() == job1.GetId() || job2.GetEndpoint().GetNetns() == path {
		t.Errorf("two holders have %v and %v", job1, job2)
	}
	h.awaitSandboxes(2)

	h.kill()
	h.reachSandbox(job1)
	h.start()
	if again := h.sandboxOf("job1"); again.GetId() != job1.GetId() || again.GetEndpoint().GetName() != "web-1" || !again.GetSince().AsTime().Equal(job1.GetSince().AsTime()) {
		t.Errorf("after a crash job1 has %v, had %v", again, job1)
	}
	h.awaitSandboxes(2)
	h.reachSandbox(job1)

	if out := h.hostfabric("sandbox", "release", "job1"); out != "released\n" {
		t.Errorf("release: %q", out)
	}
	if out := h.hostfabric("sandbox", "release", "job1"); out != "there is no such sandbox\n" {
		t.Errorf("release once more: %q", out)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the namespace after the release: %v", err)
	}
	h.hostfabric("sandbox", "release", "--id", job2.GetId())
	h.awaitSandboxes(0)

	h.write(fmt.Sprintf("blocks: [%q, %q]\nsandboxes: {low: 1, high: 1, family: ipv6}\n", block4, block6))
	h.hostfabric("reload")
	h.eventually("there is one, and it has IPv6 only", func() error {
		all := h.sandboxes()
		if len(all) != 1 || len(all[0].GetEndpoint().GetAddresses()) != 1 || !netip.MustParseAddr(all[0].GetEndpoint().GetAddresses()[0]).Is6() {
			return fmt.Errorf("there are %v", all)
		}
		return nil
	})
	v6 := h.sandboxOf("v6")
	h.reachSandbox(v6)

	h.write(fmt.Sprintf("blocks: [%q, %q]\ndns: {enabled: false}\n", block4, block6))
	h.hostfabric("reload")
	if conf := h.sandboxOf("v6").GetResolvConf(); conf != "" {
		t.Errorf("without DNS containers are to mount %q", conf)
	}
	h.hostfabric("sandbox", "release", "v6")
	h.eventually("without a pool and holders there is none", func() error {
		files, err := os.ReadDir(h.run("sandboxes"))
		if err == nil && len(files)+len(h.sandboxes())+len(h.leases()) > 0 {
			err = fmt.Errorf("there are %d files, %v, %v", len(files), h.sandboxes(), h.leases())
		}
		return err
	})
}

// sandboxes lists them by the command.
func (h *host) sandboxes() []*apiv1.Sandbox {
	h.t.Helper()
	resp, err := h.client.ListSandboxes(h.t.Context(), &apiv1.ListSandboxesRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.GetSandboxes()
}

// sandboxOf acquires one, or the one that the holder has.
func (h *host) sandboxOf(holder string) *apiv1.Sandbox {
	h.t.Helper()
	resp, err := h.client.AcquireSandbox(h.t.Context(), &apiv1.AcquireSandboxRequest{Holder: holder})
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.GetSandbox()
}

// awaitSandboxes waits until the pool is full and so many are acquired, and everything agrees: sandboxes, leases, links, routes and
// namespaces.
func (h *host) awaitSandboxes(acquired int) {
	h.t.Helper()
	want := readySandboxes + acquired
	h.eventually(fmt.Sprintf("%d sandboxes are ready, %d acquired, and all else agrees", readySandboxes, acquired), func() error {
		var held int
		for _, s := range h.sandboxes() {
			if s.GetState() == "acquired" {
				held++
			}
		}
		files, err := os.ReadDir(h.run("sandboxes"))
		if err != nil {
			return err
		}
		var routes []struct{ Dst string }
		if err := json.Unmarshal([]byte(output(h.t, h.ns, "ip", "-j", "route", "show", "proto", "176")), &routes); err != nil {
			return err
		}
		containers := 0
		for _, r := range routes {
			if a, err := netip.ParseAddr(r.Dst); err == nil && block4.Contains(a) {
				containers++
			}
		}
		links := 0
		for _, name := range linkNames(h.t, h.ns) {
			if strings.HasPrefix(name, "hf") {
				links++
			}
		}
		got := [...]int{len(h.sandboxes()), held, len(files), containers, links, len(h.leases())}
		if got != [...]int{want, acquired, want, want, want, 2 * want} {
			return fmt.Errorf("sandboxes, acquired, namespaces, routes, links, leases: %v", got)
		}
		return nil
	})
}

func (h *host) reachSandbox(s *apiv1.Sandbox) {
	h.t.Helper()
	path, err := filepath.Rel(netns.Dir, s.GetEndpoint().GetNetns())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range s.GetEndpoint().GetAddresses() {
		h.reach(netns.NS{Name: path}, netip.MustParseAddr(a))
	}
}
