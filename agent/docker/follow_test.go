package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// fakeDocker is a Docker's API. Its answers are the part of a real one's that is read.
type fakeDocker struct {
	socket string

	mu         sync.Mutex
	networks   string            // JSON
	endpoints  map[string]string // of networks: JSON
	containers string            // JSON
	inspected  map[string]string // JSON of containers, by ID
	asked      map[string]int
}

func newFakeDocker(t *testing.T) *fakeDocker {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf-") // short: a unix socket's path is
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeDocker{socket: filepath.Join(dir, "docker.sock"), networks: "[]", containers: "[]", endpoints: make(map[string]string), inspected: make(map[string]string), asked: make(map[string]int)}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: d}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done; os.RemoveAll(dir) })
	return d
}

func (d *fakeDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[r.URL.Path]++
	answer := ""
	switch id, one := strings.CutPrefix(r.URL.Path, "/networks/"); {
	case r.URL.Path == "/networks":
		answer = d.networks
	case r.URL.Path == "/containers/json":
		answer = d.containers
	case one:
		answer = d.endpoints[id]
	case strings.HasPrefix(r.URL.Path, "/containers/"):
		if answer = d.inspected[strings.Split(r.URL.Path, "/")[2]]; answer == "" {
			answer = "{}"
		}
	}
	if answer == "" {
		http.Error(w, `{"message":"not so"}`, http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, answer)
}

func (d *fakeDocker) set(change func(*fakeDocker)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// looks waits for so many further looks at the API.
func (d *fakeDocker) looks(t *testing.T, path string, n int) {
	t.Helper()
	count := func() int { d.mu.Lock(); defer d.mu.Unlock(); return d.asked[path] }
	before := count()
	nstest.Eventually(t, 10*time.Second, func() error {
		if count() < before+n {
			return fmt.Errorf("%s asked for %d times", path, count()-before)
		}
		return nil
	})
}

// follow runs a plugin with its follower until the test ends.
func follow(t *testing.T, a *fakeAgent, d *fakeDocker, look time.Duration) *server {
	t.Helper()
	s := newServer(t, a, filepath.Join(t.TempDir(), "networks"))
	ready := make(chan struct{})
	close(ready)
	f := newFollower(s, Options{API: d.socket, Ready: ready, Look: look, Log: slog.New(slog.DiscardHandler)})
	s.joined = f.wake
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func container(t *testing.T, id, name, endpoint string, labels map[string]string) string {
	t.Helper()
	c := map[string]any{"Id": id, "Names": []string{"/other/" + name, "/" + name}, "Labels": labels, "NetworkSettings": map[string]any{
		"Networks": map[string]any{"net": map[string]any{"EndpointID": endpoint}, "bridge": map[string]any{"EndpointID": "another"}},
	}}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (f *fakeAgent) says(t *testing.T, key agent.Key, want agent.Description) {
	t.Helper()
	nstest.Eventually(t, 10*time.Second, func() error {
		ep, err := f.Lookup(t.Context(), key)
		if d := cmp.Diff(want, ep.Description); err == nil && d != "" {
			err = fmt.Errorf("%s: %s", key, d)
		}
		return err
	})
}

// TestNames: they come some time after the container was connected, and only once.
func TestNames(t *testing.T) {
	a, d := newFakeAgent("10.96.0.0/24"), newFakeDocker(t)
	web, odd := a.attached("n1", "e1", "10.96.0.1"), a.attached("n1", "e2", "10.96.0.2")
	many, api := a.attached("n1", "e3", "10.96.0.3"), agent.Key{ContainerID: "x", Interface: "eth0"}
	a.endpoints[api] = agent.Endpoint{Key: api, Owner: agent.OwnerAPI}
	follow(t, a, d, time.Hour).joined()
	d.looks(t, "/containers/json", 2) // nothing there yet: it is asked for again
	d.set(func(d *fakeDocker) {
		d.containers = "[" + strings.Join([]string{
			container(t, "id1", "web-1", "e1", map[string]string{"tier": "web"}),
			container(t, "id2", "bad.", "e2", nil),
			container(t, "id3", "many", "e3", map[string]string{"a": "line\nbreak"}),
		}, ",") + "]"
	})
	a.says(t, web, agent.Description{Name: "web-1", Labels: map[string]string{"tier": "web", containerLabel: "id1"}})
	a.says(t, odd, agent.Description{Labels: map[string]string{containerLabel: "id2"}})
	a.says(t, many, agent.Description{Name: "many", Labels: map[string]string{containerLabel: "id3"}})
	a.says(t, api, agent.Description{})
}

// TestAliases: they are the endpoint's own, in the forms of all versions, and those that cannot be are left out.
func TestAliases(t *testing.T) {
	a, d := newFakeAgent("10.96.0.0/24"), newFakeDocker(t)
	old, recent, many := a.attached("n1", "e1", "10.96.0.1"), a.attached("n1", "e2", "10.96.0.2"), a.attached("n1", "e3", "10.96.0.3")
	d.containers = "[" + strings.Join([]string{
		container(t, "id1", "web-1", "e1", nil), container(t, "id2", "web-2", "e2", nil), container(t, "id3", "web-3", "e3", nil),
	}, ",") + "]"
	d.inspected["id1"] = `{"NetworkSettings":{"Networks":{"net":{"EndpointID":"e1","Aliases":["web","-no","www.shop","web","id1"]},"bridge":{"EndpointID":"another","Aliases":["x"]}}}}`
	d.inspected["id2"] = "no answer"
	var aliases []string
	for i := range agent.MaxAliases + 8 {
		aliases = append(aliases, fmt.Sprint("a", i))
	}
	d.inspected["id3"] = `{"NetworkSettings":{"Networks":{"net":{"EndpointID":"e3","Aliases":["` + strings.Join(aliases, `","`) + `"]}}}}`
	follow(t, a, d, 60*time.Millisecond)
	labels := func(id string) map[string]string { return map[string]string{containerLabel: id} }
	a.says(t, old, agent.Description{Name: "web-1", Aliases: []string{"web", "www.shop", "id1"}, Labels: labels("id1")})
	a.says(t, recent, agent.Description{Name: "web-2", Labels: labels("id2")})
	a.says(t, many, agent.Description{Name: "web-3", Aliases: aliases[:agent.MaxAliases], Labels: labels("id3")})
	d.set(func(d *fakeDocker) {
		d.inspected["id2"] = `{"NetworkSettings":{"Networks":{"net":{"EndpointID":"e2","Aliases":["web"],"DNSNames":["web-2","web","id2"]}}}}`
	})
	a.says(t, recent, agent.Description{Name: "web-2", Aliases: []string{"web", "id2"}, Labels: labels("id2")})
	d.looks(t, "/containers/json", 3)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked["/containers/id1/json"] != 1 {
		t.Errorf("%d questions about one container", d.asked["/containers/id1/json"])
	}
}

// TestRenamedContainer: what changes at Docker's is seen at the next look.
func TestRenamedContainer(t *testing.T) {
	a, d := newFakeAgent("10.96.0.0/24"), newFakeDocker(t)
	key := a.attached("n1", "e1", "10.96.0.1")
	d.networks, d.endpoints["n1"] = `[{"Id":"n1","Driver":"hostfabric","IPAM":{"Driver":"hostfabric"}}]`, `{"Containers":{"id1":{"EndpointID":"e1"}}}`
	d.containers = "[" + container(t, "id1", "old", "e1", nil) + "]"
	follow(t, a, d, 60*time.Millisecond)
	a.says(t, key, agent.Description{Name: "old", Labels: map[string]string{containerLabel: "id1"}})
	d.set(func(d *fakeDocker) { d.containers = "[" + container(t, "id1", "new", "e1", nil) + "]" })
	a.says(t, key, agent.Description{Name: "new", Labels: map[string]string{containerLabel: "id1"}})
	d.looks(t, "/containers/json", 2)
	if a.mu.Lock(); a.described != 2 {
		t.Errorf("described %d times", a.described)
	}
	a.mu.Unlock()
}

// TestForgotten: what Docker does not know of goes, at the second look, and nothing where Docker may not be the one that made it.
func TestForgotten(t *testing.T) {
	a, d := newFakeAgent("10.96.0.0/24"), newFakeDocker(t)
	kept, gone, strange := a.attached("n1", "e1", "10.96.0.1"), a.attached("n1", "e2", "10.96.0.2"), a.attached("elsewhere", "e3", "10.96.0.3")
	runs := a.attached("n1", "e4", "10.96.0.4") // which Docker knows of its container alone
	d.networks = ""                             // Docker fails
	s := follow(t, a, d, 20*time.Millisecond)
	for _, id := range []string{"n1", "elsewhere", "old"} {
		if err := s.networks.put(id, network{}); err != nil {
			t.Fatal(err)
		}
	}
	d.looks(t, "/networks", 3)
	if n := len(a.Endpoints()); n != 4 || len(s.networks.ids()) != 3 {
		t.Errorf("%d endpoints, networks %v after a failure", n, s.networks.ids())
	}
	d.set(func(d *fakeDocker) {
		d.networks = `[{"Id":"n1","Driver":"hostfabric","IPAM":{"Driver":"hostfabric"}},
			{"Id":"n2","Driver":"hostfabric","Options":{"com.docker.network.driver.mtu":"1400"},"IPAM":{"Driver":"hostfabric"}},
			{"Id":"n3","Name":"odd","Driver":"macvlan","IPAM":{"Driver":"hostfabric"}}, {"Id":"n4","Driver":"bridge","IPAM":{"Driver":"default"}}]`
		d.endpoints["n1"] = `{"Containers":{"id1":{"EndpointID":"e1"}}}`
		d.containers = "[" + container(t, "id4", "runs", "e4", nil) + "]"
	})
	nstest.Eventually(t, 10*time.Second, func() error {
		if _, err := a.Lookup(t.Context(), gone); err == nil {
			return fmt.Errorf("%s is attached", gone)
		}
		if _, known := s.networks.get("old"); known {
			return fmt.Errorf("network old is known")
		}
		return nil
	})
	d.looks(t, "/networks", 3)
	for _, key := range []agent.Key{kept, strange, runs} {
		if _, err := a.Lookup(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	// One that only Docker knew of is known again, with its options.
	s.networks.mu.Lock()
	defer s.networks.mu.Unlock()
	if d := cmp.Diff(map[string]network{"n1": {}, "elsewhere": {}, "n2": {MTU: 1400}}, s.networks.all); d != "" {
		t.Error(d)
	}
}

// TestServe ends with its context, with a Docker that is away and a request under way.
func TestServe(t *testing.T) {
	dir, err := os.MkdirTemp("", "hf-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "plugin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, l, Options{Endpoints: newFakeAgent("10.96.0.0/24"), Driver: "hostfabric", Record: filepath.Join(dir, "networks"), API: filepath.Join(dir, "nobody.sock"), Ready: ctx.Done()})
	}()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Post("http://plugin/Plugin.Activate", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != contentType {
		t.Errorf("%s, %s", resp.Status, got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
