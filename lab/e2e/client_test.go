package e2e

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// hostfabric runs a client command on the host, which must succeed.
func (h *host) hostfabric(args ...string) string {
	h.t.Helper()
	return output(h.t, h.ns, filepath.Join(bin, "hostfabric"), append(args, "--socket", h.run("hostfabric.sock"))...)
}

// TestClient attaches and detaches by the command line, and looks at what came of it.
func TestClient(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	before := h.census(box)
	if out := h.hostfabric("attach", "web", box.Path(), "--address", "10.64.0.7,fd00:64::7", "--mtu", "1400"); !strings.Contains(out, "10.64.0.7,fd00:64::7") {
		t.Errorf("attach prints %q", out)
	}
	h.reach(box, netip.MustParseAddr("10.64.0.7"), netip.MustParseAddr("fd00:64::7"))
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"status"}, []string{"ready", "1, 2 leases"}},
		{[]string{"leases", "--container", "web"}, []string{"10.64.0.7", "fd00:64::7", "web", "leased"}},
		{[]string{"blocks"}, []string{"10.64.0.0/28", "fd00:64::/64", "static"}},
		{[]string{"routes", "--owner", "endpoints"}, []string{"10.64.0.7/32", "fd00:64::7/128", "installed"}},
		{[]string{"routes", "--owner", "blocks"}, []string{"10.64.0.0/28", "blackhole", "installed"}},
		{[]string{"peers"}, []string{"PEER"}},
	} {
		out := h.hostfabric(tc.args...)
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%q prints\n%s\nwithout %s", tc.args, out, want)
			}
		}
	}
	for _, want := range []string{"web/eth0 detached\n", "web/eth0 was not attached\n"} {
		if out := h.hostfabric("detach", "web"); out != want {
			t.Errorf("detach prints %q, want %q", out, want)
		}
	}
	h.unchanged(before, box)
}
