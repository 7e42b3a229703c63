package bench_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/bench"
	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

var programs struct{ agent, shim, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-cni": &programs.shim, "hostfabric-lab": &programs.lab})
}

// TestBenchmarks runs the benchmarks in small, for their form and for the figures that are counts.
func TestBenchmarks(t *testing.T) {
	nstest.RequireRoot(t)
	plugins, err := filepath.Abs("../../build/tools")
	if err != nil {
		t.Fatal(err)
	}
	for _, plugin := range []string{"ptp", "host-local"} {
		if _, err := os.Stat(filepath.Join(plugins, plugin)); err != nil {
			t.Fatalf("%v: run `make deps`", err)
		}
	}
	opts := bench.Options{
		Agent: programs.agent, Shim: programs.shim, Lab: programs.lab, Plugins: plugins,
		Hosts: 3, Containers: 4, Cycles: 50, Iterations: 5, Rounds: 1, Prefixes: 2000, BFD: true,
		LedgerRounds: 2, LedgerEvents: 200_000,
		Turn: 200 * time.Millisecond, Endpoints: 12, Detaches: 10, Churn: 200 * time.Millisecond, Namespaces: 400,
	}
	// Those that watch for what takes too long have the machine to themselves; the others are a few at a time.
	alone := func(b bench.Benchmark) bool {
		return strings.HasPrefix(b.Name, "failover.") || strings.HasPrefix(b.Name, "fib.") || strings.HasPrefix(b.Name, "ipam.")
	}
	measured := make([][]bench.Result, len(bench.All))
	var some errgroup.Group
	some.SetLimit(4)
	for i, b := range bench.All {
		if strings.HasPrefix(b.Name, "restart.") || b.Name == "failover.10" || alone(b) {
			continue // lab/scenes plays restart.*, and failover.100k has the smaller one too
		}
		some.Go(func() error {
			opts := opts
			opts.Name = fmt.Sprint("hfbench", i)
			measured[i] = run(t, b, opts)
			return nil
		})
	}
	_ = some.Wait() // run tells of errors
	for i, b := range bench.All {
		if alone(b) && b.Name != "failover.10" {
			measured[i] = run(t, b, opts)
		}
	}
	results := slices.Concat(measured...)
	var table bytes.Buffer
	if err := bench.Print(&table, results); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
	if lines := strings.Count(table.String(), "\n"); lines != len(results)+1 {
		t.Errorf("the table has %d lines for %d results", lines, len(results))
	}
}

// run runs one benchmark and looks at the form of what it measured.
func run(t *testing.T, b bench.Benchmark, opts bench.Options) []bench.Result {
	t.Helper()
	began := time.Now()
	measured, err := b.Run(t.Context(), opts)
	if err != nil {
		t.Errorf("%s: %v", b.Name, err)
		return nil
	}
	if len(measured) == 0 || measured[0].Name != b.Name {
		t.Errorf("%s: its first result is not its own: %+v", b.Name, measured)
	}
	for _, r := range measured {
		checkResult(t, b.Name, r)
	}
	t.Logf("%s took %.1f s", b.Name, time.Since(began).Seconds())
	return measured
}

func checkResult(t *testing.T, benchmark string, r bench.Result) {
	t.Helper()
	if !strings.HasPrefix(r.Name, benchmark) || r.Unit == "" || r.Target == "" || r.Conditions == "" {
		t.Errorf("%s: incomplete result %+v", benchmark, r)
	}
	switch r.Name {
	case "tor.table":
		if r.Value != 3 || *r.BaselineValue != 12 {
			t.Errorf("tor.table is %v of %v, want 3 of 12", r.Value, *r.BaselineValue)
		}
	case "tor.churn":
		if r.Value != 0 {
			t.Errorf("tor.churn is %v, want 0", r.Value)
		}
	case "restart.agent", "restart.agent.absent", "restart.speaker", "restart.speaker.absent", "restart.upgrade", "restart.upgrade.absent":
		if r.Value != 0 {
			t.Errorf("%s is %v, want 0 (%s)", r.Name, r.Value, r.Conditions)
		}
	case "dns.answers":
		if r.Value <= 0 || !strings.Contains(r.Conditions, "queries, 0 lost, 0 with an error") {
			t.Errorf("%s is %v (%s)", r.Name, r.Value, r.Conditions)
		}
	case "failover.10.link", "failover.100k.link": // 0 is as good as it gets
		if r.Value > 1000 {
			t.Errorf("%s is %v", r.Name, r.Value)
		}
	default:
		if r.Value <= 0 {
			t.Errorf("%s is %v", r.Name, r.Value)
		}
	}
}

func TestResultForm(t *testing.T) {
	out, err := json.Marshal(bench.Result{})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"","unit":"","value":0,"p99":null,"baseline":"","baseline_value":null,"ratio":null,"target":"","conditions":""}`
	if string(out) != want {
		t.Errorf("a result is %s, want %s", out, want)
	}
}

func TestSelect(t *testing.T) {
	if all, err := bench.Select(nil); err != nil || len(all) != len(bench.All) {
		t.Errorf("no name selects %d, %v", len(all), err)
	}
	if one, err := bench.Select([]string{"memory.idle"}); err != nil || len(one) != 1 || one[0].Name != "memory.idle" {
		t.Errorf("memory.idle selects %v, %v", one, err)
	}
	if _, err := bench.Select([]string{"nothing"}); err == nil || !strings.Contains(err.Error(), "tor.table") {
		t.Errorf("an unknown name: %v, want the known ones listed", err)
	}
}
