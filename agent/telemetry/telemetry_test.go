package telemetry_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/dns"
	"github.com/hostfabric/hostfabric/agent/failover"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/agent/telemetry"
	"github.com/hostfabric/hostfabric/agent/telemetry/otlp"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

var update = flag.Bool("update", false, "write the files that are compared with")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is an agent that has some of everything.
type host struct {
	problems []string
	notReady error
}

func (h host) Ready(context.Context) error { return h.notReady }

func (h host) Status(context.Context) agent.Status {
	tor1, tor2 := netip.MustParseAddr("172.31.0.0"), netip.MustParseAddr("172.31.0.2")
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.64.0.0/25"), netip.MustParsePrefix("fd00:64::/64")}
	return agent.Status{
		Host: "h1", Version: "v1.0.0", Problems: h.problems, Speaker: bgp.Status{Connected: true, Version: "v0.9.0", Crashes: 3}, Leases: 4,
		BFD: agent.BFDStatus{Wanted: true, Connected: true, Version: "v1.0.0", Sessions: []bfd.Status{
			{Session: bfd.Session{Peer: tor1}, State: bfd.Up, Downs: 2}, {Session: bfd.Session{Peer: tor2}, State: bfd.Down},
		}},
		Announced: prefixes, Cover: prefixes, BudgetIPv4: 4, BudgetIPv6: 2,
		Announcing: true, Healthy: true, Confined: true, Dropped: firewall.Dropped{SpoofedIPv4: 11, SpoofedIPv6: 12, Closed: 13},
		Dead: []failover.Dead{{Peer: tor2, Cause: "BFD"}},
		Peers: []bgp.PeerStatus{
			{Address: tor1, ASN: 64513, Description: "tor1", State: bgp.StateEstablished, Flaps: 5, Received: bgp.MessageCount{Update: 7}, Sent: bgp.MessageCount{Update: 2},
				Families: []bgp.FamilyStatus{{Family: bgp.IPv4, Received: 4, Accepted: 2, Advertised: 1, Unusable: 1, Refused: bgp.RefusedCount{OwnSpace: 2}}}},
			{Address: tor2, ASN: 64514, Description: "tor2", State: bgp.StateActive},
		},
	}
}

func (host) Counters() agent.Counters {
	var fast, slow agent.Latency
	fast.Counts[3], fast.Counts[5], fast.Sum = 4, 1, 12*time.Millisecond
	slow.Counts[len(slow.Counts)-1], slow.Sum = 1, 11*time.Second
	return agent.Counters{
		Attach: []agent.Verbs{{FrontEnd: "cni", Result: "ok", Latency: fast}, {FrontEnd: "cni", Result: "error", Latency: slow}, {FrontEnd: "docker", Result: "ok"}},
		Detach: []agent.Verbs{{FrontEnd: "", Result: "repeated", Latency: fast}}, Reconcile: 250 * time.Millisecond,
	}
}

func (host) CountEndpoints() map[string]int { return map[string]int{"": 0, "cni": 3} }

func (host) Views() []blocks.View {
	view := func(prefix, pool, state string, leased uint64) blocks.View {
		return blocks.View{State: state, Usage: ipam.Usage{
			Block: ipam.Block{Prefix: netip.MustParsePrefix(prefix), Pool: pool}, Leased: leased, Quarantined: 2, Free: big.NewInt(50),
			Reserved: big.NewInt(1), InUse: big.NewInt(3), Withheld: big.NewInt(4),
		}}
	}
	return []blocks.View{view("10.64.0.0/26", "default", "open", 3), view("10.64.0.64/26", "default", "draining", 1), view("fd00:64::/64", "gold", "open", 0)}
}

// sources has everything there can be.
func sources(h host) telemetry.Sources {
	var batches routes.Durations
	batches.Counts[2], batches.Sum = 9, 3*time.Millisecond
	return telemetry.Sources{
		Agent: h,
		Sandboxes: func() sandbox.Status {
			return sandbox.Status{Ready: 8, Acquired: 4, Counters: sandbox.Counters{Warm: 20, Cold: 2, Failed: 1}}
		},
		Routes: func() routes.Stats {
			return routes.Stats{
				Wanted:  map[routes.Owner]int{routes.Blocks: 2, routes.Endpoints: 4, routes.Fabric: 6},
				States:  map[routes.State]int{routes.Installed: 9, routes.Failed: 1, routes.Refused: 2},
				Foreign: 7, Changes: 40, Errors: 3, Repairs: 1, Batches: batches, Listing: 2 * time.Millisecond, Resyncs: 5,
			}
		},
		Failovers: func() uint64 { return 6 },
		DNS: func() dns.Stats {
			return dns.Stats{
				Answers:   map[dns.Outcome]uint64{{Kind: dns.Own, Rcode: "NOERROR"}: 5, {Kind: dns.Forwarded, Rcode: "SERVFAIL"}: 1},
				Durations: map[dns.Kind]dns.Histogram{dns.Own: {Counts: []uint64{5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, Sum: 0.00002}},
				Limited:   1, Busy: 2, Ignored: 3, CacheHits: 4, CacheMisses: 5, CacheEntries: 6, CacheBytes: 700, Names: 3, Waiting: 1, Connections: 2,
			}
		},
		Ledger: func() history.Stats {
			return history.Stats{
				Recorded: 100, Dropped: 2, Buffered: 3, Written: 4000, Writes: 5, WriteTime: 60 * time.Millisecond, WriteErrors: 1, Failing: "disk full", Segments: 2,
				Size: 70_000, Events: 900, Oldest: time.Unix(1_700_000_000, 0),
			}
		},
		OTLP: func() otlp.Stats {
			return otlp.Stats{Exported: 50, Overflow: 1, Refused: 2, Expired: 3, Errors: 4, Queued: 5}
		},
	}
}

// serve has a server answer, until the test ends, and returns what asks it.
func serve(t *testing.T, o telemetry.Options, src telemetry.Sources) (get func(path string) (int, string)) {
	t.Helper()
	s := httptest.NewServer(telemetry.Handler(o, src))
	t.Cleanup(func() {
		s.Client().CloseIdleConnections()
		s.Close()
	})
	return func(path string) (int, string) {
		t.Helper()
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

// compare fails unless a file has this text, or writes it.
func compare(t *testing.T, file, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s is not what there is (go test ./agent/telemetry -update) -file +now:\n%s", file, diff)
	}
}

func TestMetrics(t *testing.T) {
	code, body := serve(t, telemetry.Options{}, sources(host{}))("/metrics")
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, body)
	}
	var ours []string
	for line := range strings.Lines(body) {
		if strings.Contains(line, "hostfabric_") && !strings.HasPrefix(line, "# HELP") {
			ours = append(ours, line)
		}
	}
	compare(t, "testdata/metrics.txt", strings.Join(ours, ""))
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestWhatIsNotThereHasNoMetrics: an agent without DNS does not claim to have answered nothing.
func TestWhatIsNotThereHasNoMetrics(t *testing.T) {
	_, body := serve(t, telemetry.Options{}, telemetry.Sources{Agent: host{}})("/metrics")
	for _, part := range []string{"hostfabric_dns_", "hostfabric_sandbox", "hostfabric_routes", "hostfabric_ledger_", "hostfabric_otlp_"} {
		if strings.Contains(body, part) {
			t.Errorf("%s in\n%s", part, body)
		}
	}
	if !strings.Contains(body, "hostfabric_leases 4\n") {
		t.Errorf("no leases in\n%s", body)
	}
}

// TestEveryMetricIsExportedAndDocumented compares the catalog, a scrape of an agent that has everything, and the table for users.
func TestEveryMetricIsExportedAndDocumented(t *testing.T) {
	_, body := serve(t, telemetry.Options{}, sources(host{}))("/metrics")
	var doc strings.Builder
	doc.WriteString(`# Metrics

What the agent exports at ` + "`metrics.listen`" + `, besides the Go runtime's and the process's (` + "`go_*`, `process_*`" + `). Labels are bounded by the configuration (peers, pools) or
by the code: no container, address or name is one. This table is written by a test, from the code.

| Metric | Type | Labels | What it is |
|---|---|---|---|
`)
	var catalog []string
	for _, f := range telemetry.Families() {
		catalog = append(catalog, f.Name+" "+f.Type)
		labels := "-"
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&doc, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, labels, f.Help)
	}
	var exported []string
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "# TYPE hostfabric_"); ok {
			exported = append(exported, "hostfabric_"+strings.TrimSpace(rest))
		}
	}
	slices.Sort(exported)
	if diff := cmp.Diff(catalog, exported); diff != "" {
		t.Errorf("not exported, or not in the catalog -catalog +exported:\n%s", diff)
	}
	compare(t, filepath.Join("..", "..", "configs", "prometheus", "METRICS.md"), doc.String())
}

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		h    host
		code int
		body string
	}{
		{host{}, http.StatusOK, "ready\n"},
		{host{problems: []string{"peer 172.31.0.2 (AS64514) is Active"}}, http.StatusOK, "ready\npeer 172.31.0.2 (AS64514) is Active\n"},
		{host{problems: []string{"a", "restoring"}, notReady: errors.New("restoring")}, http.StatusServiceUnavailable, "not ready: restoring\na\n"},
	} {
		get := serve(t, telemetry.Options{}, sources(tt.h))
		if code, body := get("/readyz"); code != tt.code || body != tt.body {
			t.Errorf("readyz = %d %q, want %d %q", code, body, tt.code, tt.body)
		}
		if code, body := get("/healthz"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("healthz = %d %q", code, body)
		}
	}
}

func TestPages(t *testing.T) {
	problem := "route <b>10.0.0.0/8</b> failed"
	for _, pprof := range []bool{false, true} {
		get := serve(t, telemetry.Options{Pprof: pprof}, sources(host{problems: []string{problem}}))
		code, body := get("/")
		if code != http.StatusOK || !strings.Contains(body, "h1") || !strings.Contains(body, "route &lt;b&gt;") || strings.Contains(body, "/debug/pprof/") != pprof {
			t.Errorf("landing page with pprof %v: %d\n%s", pprof, code, body)
		}
		for path, want := range map[string]bool{"/nothing": false, "/debug/pprof/": pprof, "/debug/pprof/heap": pprof, "/debug/pprof/cmdline": pprof} {
			if code, _ := get(path); (code == http.StatusOK) != want {
				t.Errorf("with pprof %v, %s is answered with %d", pprof, path, code)
			}
		}
	}
}

func TestRunOnUnixSocketOnceItIsFree(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "later", "m")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- telemetry.Run(ctx, telemetry.Options{Network: "unix", Address: socket, Log: slog.New(slog.DiscardHandler)}, sources(host{}))
	}()
	if err := os.Mkdir(filepath.Dir(socket), 0o755); err != nil { // Run has failed once, or has not tried yet
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := client.Get("http://metrics/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("status %d", resp.StatusCode)
			}
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
