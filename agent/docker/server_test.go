package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostfabric/hostfabric/agent"
)

// newServer is a plugin without a socket.
func newServer(t testing.TB, a *fakeAgent, record string) *server {
	t.Helper()
	known, err := loadNetworks(record)
	if err != nil {
		t.Fatal(err)
	}
	return &server{endpoints: a, networks: known, driver: "hostfabric", log: slog.New(slog.DiscardHandler), joined: func() {}}
}

func post(h http.Handler, method, body string) (status int, answer string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

// TestExchange replays what a Docker said. Lines of testdata/exchange.txt: a method with its request, then "= answer" or "! status
// error"; "restart" of the agent; "attached" and "reserved", what there is to be.
func TestExchange(t *testing.T) {
	text, err := os.ReadFile("testdata/exchange.txt")
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(t.TempDir(), "networks")
	a := newFakeAgent("10.96.0.0/24", "fd96:5::/64")
	h := newServer(t, a, record).handler()
	var asked, got string
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || verb == "#":
		case verb == "restart":
			h = newServer(t, a, record).handler()
		case verb == "=":
			expect(t, n, asked, "200 "+rest, got)
		case verb == "!":
			status, text, _ := strings.Cut(rest, " ")
			quoted, err := json.Marshal(text)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, n, asked, fmt.Sprintf(`%s {"Err":%s}`, status, quoted), got)
		case verb == "attached":
			expect(t, n, verb, line, a.attachedText())
		case verb == "reserved":
			expect(t, n, verb, line, a.reservedText())
		default:
			status, answer := post(h, verb, rest)
			asked, got = verb, fmt.Sprintf("%d %s", status, answer)
		}
	}
}

func expect(t *testing.T, line int, what, want, got string) {
	t.Helper()
	if got != want {
		t.Errorf("line %d, %s:\n got %s\nwant %s", line, what, got, want)
	}
}

func (f *fakeAgent) attachedText() string {
	words := []string{"attached"}
	mtu := 0
	for _, ep := range f.Endpoints() {
		for _, addr := range ep.Addresses {
			words = append(words, addr.String())
		}
		mtu = ep.MTU
	}
	slices.Sort(words[1:])
	if mtu != 0 {
		words = append(words, "mtu", fmt.Sprint(mtu))
	}
	return strings.Join(words, " ")
}

func (f *fakeAgent) reservedText() string {
	words := []string{"reserved"}
	for addr := range f.reserved {
		words = append(words, addr.String())
	}
	slices.Sort(words[1:])
	return strings.Join(words, " ")
}

func TestErrorsOfTheAgent(t *testing.T) {
	a := newFakeAgent("10.96.0.0/24")
	h := newServer(t, a, filepath.Join(t.TempDir(), "networks")).handler()
	for want, err := range map[int]error{
		http.StatusBadRequest:          agent.ErrInvalid,
		http.StatusConflict:            agent.ErrAddressInUse,
		http.StatusServiceUnavailable:  fmt.Errorf("host: %w", agent.ErrDraining),
		http.StatusInternalServerError: errors.New("no idea"),
	} {
		a.err = err
		status, answer := post(h, "IpamDriver.RequestAddress", `{"PoolID":"hostfabric,,0.0.0.0/0"}`)
		if status != want || answer != fmt.Sprintf(`{"Err":%q}`, err) {
			t.Errorf("%v: %d %s", err, status, answer)
		}
	}
}

// TestSubnetOfOtherAddresses: a network whose --subnet does not have the host's next address refuses it, and holds nothing.
func TestSubnetOfOtherAddresses(t *testing.T) {
	a := newFakeAgent("10.96.0.0/24")
	h := newServer(t, a, filepath.Join(t.TempDir(), "networks")).handler()
	status, answer := post(h, "IpamDriver.RequestAddress", `{"PoolID":"hostfabric,,10.96.0.128/25"}`)
	if status != http.StatusServiceUnavailable || !strings.Contains(answer, "outside the network's --subnet 10.96.0.128/25") || len(a.reserved) != 0 {
		t.Errorf("%d %s, reserved %v", status, answer, a.reserved)
	}
	status, answer = post(h, "IpamDriver.RequestAddress", `{"PoolID":"hostfabric,,10.96.0.128/25","Address":"10.96.0.1"}`)
	if status != http.StatusBadRequest || len(a.reserved) != 0 {
		t.Errorf("%d %s, reserved %v", status, answer, a.reserved)
	}
}

func TestRecordOfNetworks(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "networks")
	n, err := loadNetworks(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := n.put(id, network{MTU: 1400}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(n.drop("b"), n.drop("b")); err != nil {
		t.Fatal(err)
	}
	// Where it cannot be written, nothing has changed.
	n.file = filepath.Join(dir, "missing", "networks")
	if n.put("d", network{}) == nil || n.drop("a") == nil || n.put("c", network{}) == nil {
		t.Error("changed without a record")
	}
	again, err := loadNetworks(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*networks{n, again} {
		if d := cmp.Diff(map[string]network{"a": {1400}, "c": {1400}}, got.all); d != "" {
			t.Error(d)
		}
	}
	for _, damage := range []string{"", "{", `{"version": 9}`, "[]"} {
		if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadNetworks(file); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%q: %v", damage, err)
		}
	}
}

// FuzzPlugin sends any request to any method: there is always one answer, in JSON, and an error says so.
func FuzzPlugin(f *testing.F) {
	text, err := os.ReadFile("testdata/exchange.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if method, body, ok := strings.Cut(strings.TrimSpace(line), " {"); ok && strings.Contains(method, "Driver.") {
			f.Add(method, []byte("{"+body))
		}
	}
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		a := newFakeAgent("10.96.0.0/24", "fd96:5::/64")
		s := newServer(t, a, filepath.Join(t.TempDir(), "networks"))
		s.networks.all["25bbaa3ecb77c8ffb330be6b94ec246086d3ad13c40a56791746c92522ee61ef"] = network{}
		req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		req.URL.Path = "/" + method
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, req)
		if w.Code >= 300 && w.Code < 400 {
			return // the multiplexer's, to the same path in clean
		}
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s %s: %d %s: %v", method, body, w.Code, w.Body, err)
		}
		text, failed := answer["Err"].(string)
		if failed != (w.Code != http.StatusOK) || failed && text == "" {
			t.Errorf("%s %s: %d %v", method, body, w.Code, answer)
		}
		for _, ep := range a.Endpoints() {
			if len(ep.Addresses) == 0 {
				t.Errorf("attached without an address: %+v", ep)
			}
		}
	})
}
