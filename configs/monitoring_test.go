package configs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/hostfabric/hostfabric/agent/telemetry"
)

const promtool = "/usr/bin/promtool" // of lab/deps.sh

// alert is a rule of hostfabric.rules.yaml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	data, err := os.ReadFile("prometheus/hostfabric.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

// panel is one of the dashboard, as far as it matters here.
type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func dashboard(t *testing.T) []panel {
	t.Helper()
	var d struct {
		Panels []panel `json:"panels"`
	}
	data, err := os.ReadFile("grafana/hostfabric.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) < 20 {
		t.Fatalf("only %d panels", len(d.Panels))
	}
	return d.Panels
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
}

func TestAlertRules(t *testing.T) {
	t.Parallel()
	run(t, "prometheus", promtool, "check", "rules", "hostfabric.rules.yaml")
	run(t, "prometheus", promtool, "test", "rules", "hostfabric.rules_test.yaml")
}

// TestEveryAlertIsTestedAndExplained: each is shown to fire and not to fire, and says what to do.
func TestEveryAlertIsTestedAndExplained(t *testing.T) {
	var tests struct {
		Tests []struct {
			Exprs []struct {
				Expr    string `yaml:"expr"`
				Samples []any  `yaml:"exp_samples"`
			} `yaml:"promql_expr_test"`
		} `yaml:"tests"`
	}
	data, err := os.ReadFile("prometheus/hostfabric.rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &tests); err != nil {
		t.Fatal(err)
	}
	fires, quiet := make(map[string]bool), make(map[string]bool)
	name := regexp.MustCompile(`alertname="(\w+)"`)
	for _, test := range tests.Tests {
		for _, e := range test.Exprs {
			m := name.FindStringSubmatch(e.Expr)
			if m == nil || !strings.Contains(e.Expr, `alertstate="firing"`) {
				t.Errorf("%s is not about an alert that fires", e.Expr)
				continue
			}
			if len(e.Samples) > 0 {
				fires[m[1]] = true
			} else {
				quiet[m[1]] = true
			}
		}
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s: a test where it fires %v, one where it does not %v", a.Alert, fires[a.Alert], quiet[a.Alert])
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q", a.Alert, a.Labels["severity"])
		}
		for _, text := range []string{"summary", "description", "runbook"} {
			if len(a.Annotations[text]) < 20 {
				t.Errorf("%s: %s %q", a.Alert, text, a.Annotations[text])
			}
		}
	}
}

// selector is a metric in an expression, with its matchers if it has some.
var (
	selector = regexp.MustCompile(`\b((?:hostfabric|process|go)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
)

// standard are metrics of the Go runtime and of the process that client_golang exports.
var standard = []string{"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total", "go_memstats_heap_inuse_bytes"}

// TestExpressionsAreAboutWhatThereIs: alerts and dashboard use metrics that the agent exports, and labels that these have.
func TestExpressionsAreAboutWhatThereIs(t *testing.T) {
	families := make(map[string]telemetry.Family)
	for _, f := range telemetry.Families() {
		families[f.Name] = f
	}
	used := make(map[string]bool)
	check := func(where, expr string) {
		for _, m := range selector.FindAllStringSubmatch(expr, -1) {
			name := m[1]
			f, ok := families[name]
			if base := strings.TrimSuffix(name, "_bucket"); !ok && families[base].Type == "histogram" {
				f, ok = families[base], true
			}
			used[f.Name] = true
			if !ok {
				if !slices.Contains(standard, name) {
					t.Errorf("%s uses %s, which the agent does not export", where, name)
				}
				continue
			}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "job" && l[1] != "instance" && !slices.Contains(f.Labels, l[1]) {
					t.Errorf("%s: %s has no label %s", where, name, l[1])
				}
			}
		}
	}
	for _, a := range alerts(t) {
		check(a.Alert, a.Expr)
	}
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
	}
	if len(used) < 30 {
		t.Errorf("only %d metrics are used", len(used))
	}
}

// TestDashboard has Prometheus parse its expressions, and looks whether its panels lie side by side.
func TestDashboard(t *testing.T) {
	t.Parallel()
	rules := "groups:\n  - name: dashboard\n    rules:\n"
	ids := make(map[int]bool)
	cells := make(map[[2]int]string)
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".+", "$instance", "h1:9179")
	for _, p := range dashboard(t) {
		if ids[p.ID] {
			t.Errorf("panel %q has the number of another one", p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies upon %q", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if len(p.Targets) == 0 && p.Type != "row" {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for i, target := range p.Targets {
			rules += fmt.Sprintf("      - {record: 'panel%d:%d', expr: '%s'}\n", p.ID, i, variables.Replace(target.Expr))
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, ".", promtool, "check", "rules", file)
}
