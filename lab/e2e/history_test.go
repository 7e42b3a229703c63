package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// had is what `hostfabric history SUBJECT --at` says: the container, and whether it is still there.
func (h *host) had(subject string, at time.Time, more ...string) string {
	h.t.Helper()
	out := h.hostfabric(append([]string{"history", subject, "--at", at.Format(time.RFC3339Nano), "-o", "json"}, more...)...)
	var said struct {
		Episodes []struct {
			ContainerID string `json:"container_id"`
			Name, End   string
			Addresses   []string
			Labels      map[string]string
			From        time.Time
		}
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		h.t.Fatalf("history %s: %v: %s", subject, err, out)
	}
	var all []string
	for _, e := range said.Episodes {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.ContainerID, e.Name, e.Labels["app"], e.End)))
	}
	return strings.Join(all, ", ")
}

// follow runs `hostfabric events -f`.
func (h *host) follow() (*exec.Cmd, *bufio.Scanner) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(bin, "hostfabric"), "events", "-f", "--socket", h.run("hostfabric.sock"), "--kind", "attach,detach")
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// TestHistory asks a real agent who had an address, over restarts and crashes of it, and reads its ledger without it.
func TestHistory(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	attach := func(id, name string) (ipv6 string) {
		t.Helper()
		h.eventually("the address can be had", func() error {
			resp, err := h.client.Attach(t.Context(), &apiv1.AttachRequest{
				ContainerId: id, Interface: "eth0", Netns: box.Path(), Name: name, Addresses: []string{"10.64.0.7"}, Labels: map[string]string{"app": "shop"},
			})
			if err == nil {
				ipv6 = resp.GetEndpoint().GetAddresses()[1]
			}
			return err
		})
		return ipv6
	}
	follow, heard := h.follow()
	before := time.Now()
	ipv6 := attach("first", "web-1")
	during := time.Now()
	h.detach("first")
	between := time.Now()
	attach("second", "db-1")
	for _, want := range []string{"attach", "detach", "attach"} {
		if !heard.Scan() || !strings.Contains(heard.Text(), want) || !strings.Contains(heard.Text(), "addresses=10.64.0.7,") {
			t.Fatalf("who follows hears %q, want %s: %v", heard.Text(), want, heard.Err())
		}
	}
	ask := func(more ...string) {
		t.Helper()
		for _, q := range []struct {
			subject string
			at      time.Time
			want    string
		}{
			{"10.64.0.7", before, ""}, {"10.64.0.7", during, "first web-1 shop detached"}, {ipv6, during, "first web-1 shop detached"},
			{"first", during, "first web-1 shop detached"}, {"web-1", during, "first web-1 shop detached"}, {"10.64.0.7", between, ""},
			{"10.64.0.7", time.Now(), "second db-1 shop"}, {"db-1", time.Now(), "second db-1 shop"}, {"10.64.0.8", during, ""},
		} {
			if got := h.had(q.subject, q.at, more...); got != q.want {
				t.Errorf("history %s --at %s %s: %q, want %q", q.subject, q.at.Format(time.RFC3339Nano), more, got, q.want)
			}
		}
	}
	h.eventually("the last attach is written", func() error {
		if got := h.had("10.64.0.7", time.Now()); got == "" {
			return fmt.Errorf("nobody has it")
		}
		return nil
	})
	ask()
	h.kill()
	if heard.Scan() {
		t.Errorf("who follows hears %q of an agent that was killed", heard.Text())
	}
	if err := follow.Wait(); err == nil {
		t.Error("who followed an agent that was killed was told that all is well")
	}
	dir := filepath.Join(h.dir, "state", "history")
	ask("--dir", dir)
	h.start()
	ask()
	follow, heard = h.follow()
	if !heard.Scan() {
		t.Errorf("who follows hears nothing of before: %v", heard.Err())
	}
	h.stop() // does not wait for those who follow
	if err := follow.Wait(); err == nil {
		t.Error("who followed an agent that has ended was told that all is well")
	}
	ask("--dir", dir)
	h.start()
	ask()
	if got := h.hostfabric("history", "first"); strings.Count(got, "\n") != 4 {
		t.Errorf("the events of first are\n%s, want allocate, attach, detach and release", got)
	}
	var kinds []string
	for line := range strings.Lines(h.hostfabric("ledger", "export")) {
		var e struct{ Kind string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Kind == "start" || e.Kind == "stop" {
			kinds = append(kinds, e.Kind)
		}
	}
	if got := strings.Join(kinds, " "); got != "start start stop start" {
		t.Errorf("the agent's runs are told as %q", got)
	}
	table := filepath.Join(t.TempDir(), "ledger.parquet")
	h.hostfabric("ledger", "export", "--format", "parquet", "-o", table)
	if out := h.hostfabric("ledger", "info"); !strings.Contains(out, dir) || !strings.Contains(out, "dropped    0") {
		t.Errorf("ledger info says\n%s", out)
	}
}
