package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// impatient is a configuration whose health shows at once.
const impatient = "health: {fail_after: 0s, recover_after: 0s}\n"

// reload has the agent go on with another configuration, and returns what plan and reload said of it.
func (h *host) reload(text string) (planned, done *apiv1.Effects) {
	h.t.Helper()
	before := h.read(h.config())
	h.write(text)
	after := h.read(h.config())
	h.overwrite(before)
	plan, err := h.client.Plan(h.t.Context(), &apiv1.PlanRequest{Config: []byte(after)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.overwrite(after)
	r, err := h.client.Reload(h.t.Context(), &apiv1.ReloadRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	return plan.GetEffects(), r.GetEffects()
}

// announces waits until the agent announces these prefixes and has these problems, each by a part of its text.
func (h *host) announces(prefixes []string, problems ...string) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("it announces %v", prefixes), func() error {
		s, err := h.client.GetStatus(h.t.Context(), &apiv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		fits := slices.EqualFunc(s.GetProblems(), problems, strings.Contains)
		if !slices.Equal(s.GetAnnounced(), prefixes) || !fits {
			return fmt.Errorf("it announces %v, problems %q", s.GetAnnounced(), s.GetProblems())
		}
		return nil
	})
}

// TestReloadOfAnotherFamily: the kernel forwards IPv4 alone until the first IPv6 block comes.
func TestReloadOfAnotherFamily(t *testing.T) {
	const one = impatient + "blocks: [10.64.0.0/28]\n"
	h := startHost(t, "hfr2fam", func(h *host) { h.write(one) })
	h.announces([]string{"10.64.0.0/28"})
	h.reload(impatient + "blocks: [10.64.0.0/28, \"fd00:64::/64\"]\n")
	h.announces([]string{"10.64.0.0/28", "fd00:64::/64"})
	if on := output(t, h.ns, "cat", "/proc/sys/net/ipv6/conf/all/forwarding"); strings.TrimSpace(on) != "1" {
		t.Errorf("IPv6 forwarding is %s", on)
	}
}

// TestReloadOfAFamilyThatIsNotForwarded: where the operator sees to forwarding, he is told beforehand.
func TestReloadOfAFamilyThatIsNotForwarded(t *testing.T) {
	const unmanaged = impatient + "manage_sysctls: false\n"
	h := startHost(t, "hfr2fwd", func(h *host) {
		output(t, h.ns, "sysctl", "-w", "net.ipv4.ip_forward=1")
		h.write(unmanaged + "blocks: [10.64.0.0/28]\n")
	})
	h.announces([]string{"10.64.0.0/28"})
	h.write(unmanaged + "blocks: [10.64.0.0/28, \"fd00:64::/64\"]\n")
	_, planned := h.client.Plan(t.Context(), &apiv1.PlanRequest{Config: []byte(h.read(h.config()))})
	_, done := h.client.Reload(t.Context(), &apiv1.ReloadRequest{})
	for what, err := range map[string]error{"plan": planned, "reload": done} {
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "net.ipv6.conf.all.forwarding is 0") {
			t.Errorf("%s: %v", what, err)
		}
	}
	h.announces([]string{"10.64.0.0/28"})
}

// TestReloadOfAnotherSource: the source is read when the agent starts, and so are the blocks that come from it. Until then the
// host keeps what it has.
func TestReloadOfAnotherSource(t *testing.T) {
	h := startHost(t, "hfr2src", func(h *host) { h.write("blocks: [10.64.0.0/28]\n") })
	h.announces([]string{"10.64.0.0/28"})
	planned, done := h.reload("source: etcd\netcd: {endpoints: [\"http://192.0.2.9:2379\"]}\npools: [{name: default, prefixes: [10.64.0.0/16]}]\n")
	for what, e := range map[string]*apiv1.Effects{"plan": planned, "reload": done} {
		if len(e.GetWithdrawn())+len(e.GetDraining()) > 0 {
			t.Errorf("%s has %v withdrawn and %v drained, before the source has changed", what, e.GetWithdrawn(), e.GetDraining())
		}
		for _, c := range e.GetChanges() {
			if !c.GetRestart() {
				t.Errorf("%s says that %s changes without a restart", what, c.GetKey())
			}
		}
	}
	h.announces([]string{"10.64.0.0/28"})
}

// TestReloadOutlivesItsCaller: whoever gives up waiting does not leave a configuration half applied.
func TestReloadOutlivesItsCaller(t *testing.T) {
	slowly := func(h *host, blocks string) {
		h.write("blocks: " + blocks + "\n")
		h.overwrite(strings.Replace(h.read(h.config()), "settle: 0s", "settle: 3s", 1))
	}
	h := startHost(t, "hfr2ctx", func(h *host) { slowly(h, "[10.64.0.0/28]") })
	h.announces([]string{"10.64.0.0/28"})
	slowly(h, "[10.64.0.0/28, 10.64.1.0/28]")
	if _, err := h.client.Reload(t.Context(), &apiv1.ReloadRequest{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the second block is announced, and ToRs are given time to follow", func() error {
		s, err := h.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err == nil && len(s.GetAnnounced()) < 2 {
			err = errors.New("not yet")
		}
		return err
	})
	slowly(h, "[10.64.0.0/28, 10.64.1.0/28, 10.64.2.0/28]")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := h.client.Reload(ctx, &apiv1.ReloadRequest{}); err == nil {
		t.Log("the reload was done before its caller gave up")
	}
	h.announces([]string{"10.64.0.0/28", "10.64.1.0/28", "10.64.2.0/28"})
}

func (h *host) read(path string) string {
	h.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func (h *host) overwrite(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.config(), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}
