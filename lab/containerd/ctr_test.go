package containerd_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testCtr runs containers on both hosts. Those that are killed send no DEL, and are collected all the same.
func (r *rig) testCtr(t *testing.T) {
	out, err := r.a.Run(t.Context(), "once", "ip", "address", "show", "dev", "eth0")
	if err != nil || !strings.Contains(out, "10.64.0.") || !strings.Contains(out, "fd00:64::") {
		t.Errorf("addresses of a container: %q, %v", out, err)
	}
	r.agree(t, r.a) // it sent its DEL
	for _, n := range r.nodes() {
		if err := n.RunDetached(t.Context(), "stays"); err != nil {
			t.Fatal(err)
		}
	}
	for _, way := range []struct{ from, to node }{{r.a, r.b}, {r.b, r.a}} {
		for _, to := range r.of(t, way.to, way.to.ContainerID("stays")) {
			out, err := way.from.Exec(t.Context(), "stays", "ping", "-c", "1", "-W", "5", to.String())
			if err != nil || !strings.Contains(out, "1 packets received") {
				t.Errorf("ping from %s to %s: %q, %v", way.from.Name, to, out, err)
			}
		}
	}
	for _, n := range r.nodes() {
		r.agree(t, *n, n.ContainerID("stays"))
		if err := n.RemoveTask(t.Context(), "stays"); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: what a container left that sent no DEL is collected within %s", n.Name, r.agree(t, *n))
	}
}

// testCollect has a runtime tell what it still has, which is what is left when it forgot a container whose namespace lives on.
func (r *rig) testCollect(t *testing.T) {
	for _, id := range []string{"known", "forgotten"} {
		if err := r.a.RunDetached(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	known, forgotten := r.a.ContainerID("known"), r.a.ContainerID("forgotten")
	r.agree(t, r.a, known, forgotten)
	r.collect(t, r.a, nil) // no list is not an empty one
	r.agree(t, r.a, known, forgotten)
	r.collect(t, r.a, []string{known})
	r.agree(t, r.a, known)
	for id, want := range map[string]bool{"known": true, "forgotten": false} {
		out, err := r.a.Exec(t.Context(), id, "ip", "link")
		if err != nil || strings.Contains(out, "eth0") != want {
			t.Errorf("after GC of all but %s, %s has %q, %v", known, id, out, err)
		}
		if err := r.a.RemoveTask(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	r.agree(t, r.a)
}

// collect sends the plugin a GC of the containers' network; valid of nil is no list of attachments.
func (r *rig) collect(t *testing.T, n node, valid []string) {
	t.Helper()
	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal(r.network(&n, nil), &list); err != nil {
		t.Fatal(err)
	}
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = "1.1.0", networkName
	if valid != nil {
		var attachments []map[string]string
		for _, id := range valid {
			attachments = append(attachments, map[string]string{"containerID": id, "ifname": "eth0"})
		}
		conf["cni.dev/valid-attachments"] = attachments
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), programs.plugin)
	cmd.Env, cmd.Stdin = []string{"CNI_COMMAND=GC", "CNI_PATH=" + filepath.Dir(programs.plugin)}, bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("GC: %v: %s", err, out)
	}
}
