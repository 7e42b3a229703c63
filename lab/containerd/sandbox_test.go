package containerd_test

import (
	"strings"
	"testing"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/containerd"
)

// testSandboxes has runtimes use namespaces that were wired before: containerd with --with-ns, and runc by the path in config.json.
func (r *rig) testSandboxes(t *testing.T) {
	far := r.acquire(t, r.b, "far")
	if err := r.b.RunInNamespace(t.Context(), "far", far.GetEndpoint().GetNetns(), far.GetResolvConf()); err != nil {
		t.Fatal(err)
	}
	near := r.acquire(t, r.a, "near")
	for _, to := range append(far.GetEndpoint().GetAddresses(), "near") { // itself, by name
		out, err := containerd.Runc(t.Context(), t.TempDir(), "near", near.GetEndpoint().GetNetns(), near.GetResolvConf(), "/bin/ping", "-c", "1", "-W", "5", to)
		if err != nil || !strings.Contains(out, "1 packets received") {
			t.Errorf("ping %s from a container of runc: %q, %v", to, out, err)
		}
	}
	for _, to := range append(near.GetEndpoint().GetAddresses(), "far") { // its container is gone, its namespace answers until it is released
		out, err := r.b.Exec(t.Context(), "far", "ping", "-c", "1", "-W", "5", to)
		if err != nil || !strings.Contains(out, "1 packets received") {
			t.Errorf("ping %s from a container of containerd: %q, %v", to, out, err)
		}
	}
	if err := r.b.RemoveTask(t.Context(), "far"); err != nil {
		t.Fatal(err)
	}
	r.release(t, r.a, "near")
	r.release(t, r.b, "far")
	for _, n := range r.nodes() {
		r.agree(t, *n)
	}
}

func (r *rig) acquire(t *testing.T, n node, holder string) *apiv1.Sandbox {
	t.Helper()
	client, err := r.hosts.Client(n.Name)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.AcquireSandbox(t.Context(), &apiv1.AcquireSandboxRequest{Holder: holder, Name: holder})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSandbox()
}

func (r *rig) release(t *testing.T, n node, holder string) {
	t.Helper()
	client, err := r.hosts.Client(n.Name)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.ReleaseSandbox(t.Context(), &apiv1.ReleaseSandboxRequest{Holder: holder})
	if err != nil || !resp.GetFound() {
		t.Errorf("release of %s's sandbox: found %v, %v", holder, resp.GetFound(), err)
	}
}
