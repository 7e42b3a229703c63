package telemetry_test

import (
	"context"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/agent/telemetry"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type source struct{ problems []string }

func (s source) Status(context.Context) agent.Status {
	return agent.Status{
		Announcing: true, Dropped: firewall.Dropped{SpoofedIPv4: 11, SpoofedIPv6: 12, Closed: 13},
		Problems: s.problems, Endpoints: 3, RoutesInstalled: 9, RoutesFailed: 1, RoutesRefused: 2, Speaker: bgp.Status{Connected: true, Crashes: 3},
		Announced: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/26")},
		Peers: []bgp.PeerStatus{
			{Address: netip.MustParseAddr("172.31.0.0"), ASN: 64513, State: bgp.StateEstablished, Received: bgp.MessageCount{Update: 7},
				Families: []bgp.FamilyStatus{{Family: bgp.IPv4, Received: 4, Advertised: 1, Unusable: 1, Refused: bgp.RefusedCount{OwnSpace: 2}}}},
			{Address: netip.MustParseAddr("172.31.0.2"), ASN: 64514, State: bgp.StateActive},
		},
	}
}

func (source) Blocks(context.Context) []agent.Block {
	usage := ipam.Usage{Block: ipam.Block{Prefix: netip.MustParsePrefix("10.64.0.0/26")}, Leased: 3, Quarantined: 2, Free: big.NewInt(58)}
	return []agent.Block{{View: blocks.View{Usage: usage}}}
}

func (source) Sandboxes() sandbox.Status {
	return sandbox.Status{Ready: 8, Acquired: 4, Counters: sandbox.Counters{Warm: 20, Cold: 2, Failed: 1}}
}

func (source) Counters() agent.Counters {
	verbs := func(result string, n uint64) agent.Verbs {
		return agent.Verbs{FrontEnd: "api", Result: result, Latency: agent.Latency{Count: n}}
	}
	return agent.Counters{Attach: []agent.Verbs{verbs("ok", 5), verbs("error", 1)}, Detach: []agent.Verbs{verbs("ok", 2)}, Reconcile: 250 * time.Millisecond}
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
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

func TestMetrics(t *testing.T) {
	s := httptest.NewServer(telemetry.Handler(source{}))
	defer s.Close()
	defer s.Client().CloseIdleConnections()
	code, body := get(t, s.Client(), s.URL+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	for _, line := range []string{
		`hostfabric_endpoints 3`,
		`hostfabric_operations_total{result="ok",verb="attach"} 5`,
		`hostfabric_operations_total{result="error",verb="attach"} 1`,
		`hostfabric_reconcile_seconds 0.25`,
		`hostfabric_block_addresses_leased{block="10.64.0.0/26"} 3`,
		`hostfabric_block_addresses_free{block="10.64.0.0/26"} 58`,
		`hostfabric_peer_established{asn="64513",peer="172.31.0.0"} 1`,
		`hostfabric_peer_established{asn="64514",peer="172.31.0.2"} 0`,
		`hostfabric_peer_prefixes{direction="advertised",peer="172.31.0.0"} 1`,
		`hostfabric_peer_updates_total{direction="received",peer="172.31.0.0"} 7`,
		`hostfabric_routes{state="failed"} 1`,
		`hostfabric_routes{state="refused"} 2`,
		`hostfabric_bgp_refused_prefixes{family="ipv4",peer="172.31.0.0",reason="own_space"} 2`,
		`hostfabric_bgp_refused_prefixes{family="ipv4",peer="172.31.0.0",reason="next_hop"} 1`,
		`hostfabric_bgp_own_space_alarm{peer="172.31.0.0"} 1`,
		`hostfabric_bgp_own_space_alarm{peer="172.31.0.2"} 0`,
		`hostfabric_announced_prefixes 1`,
		`hostfabric_speaker_connected 1`,
		`hostfabric_speaker_crashes_total 3`,
		`hostfabric_problems 0`,
		`hostfabric_announcing 1`,
		`hostfabric_drained 0`,
		`hostfabric_spoofed_packets_total{family="ipv4"} 11`,
		`hostfabric_spoofed_packets_total{family="ipv6"} 12`,
		`hostfabric_closed_port_packets_total 13`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
}

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		src  source
		code int
		body string
	}{
		{source{}, http.StatusOK, "ok\n"},
		{source{problems: []string{"peer 172.31.0.2 (AS64514) is Active"}}, http.StatusServiceUnavailable, "peer 172.31.0.2 (AS64514) is Active\n"},
	} {
		s := httptest.NewServer(telemetry.Handler(tt.src))
		code, body := get(t, s.Client(), s.URL+"/healthz")
		s.Client().CloseIdleConnections()
		s.Close()
		if code != tt.code || body != tt.body {
			t.Errorf("healthz = %d %q, want %d %q", code, body, tt.code, tt.body)
		}
	}
}

func TestRunOnUnixSocketOnceItIsFree(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "later", "m")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- telemetry.Run(ctx, "unix", socket, source{}, slog.New(slog.DiscardHandler))
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
