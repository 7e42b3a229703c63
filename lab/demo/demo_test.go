package demo_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/demo"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// programs are the binaries that the demos run.
var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

func run(t *testing.T, shape fabric.Shape, cycles int) *demo.Report {
	t.Helper()
	nstest.RequireRoot(t)
	shape.Dir = filepath.Join(fabric.DefaultDir, "t") // short: unix sockets live below it
	report, err := demo.Run(t.Context(), demo.Options{
		Fabric: fabric.Options{Shape: shape, Agent: programs.agent, Binary: programs.lab},
		Cycles: cycles,
		Progress: func(p fabric.Progress) {
			if p.Done == p.Total {
				t.Logf("%s %d/%d", p.Step, p.Done, p.Total)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestDemo runs the main job with every kind of router. The tables in the report are the router's own (vtysh, birdc)
// and the kernel's in its namespace.
func TestDemo(t *testing.T) {
	for i, kind := range tor.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			report := run(t, fabric.Shape{Name: fmt.Sprintf("demo%d", i), Tor: kind, Containers: 5}, 100)
			var text bytes.Buffer
			report.Print(&text)
			t.Log(text.String())
			if !report.OK {
				t.Fatalf("not as it should be: %q", report.Failures)
			}
			if report.PingsSent != 20*15 || report.FailoverSent == 0 || len(report.KilledToRs) != 2 {
				t.Errorf("%d pings, %d packets during failover, ToRs %v killed: want 300, some, one of each rack",
					report.PingsSent, report.FailoverSent, report.KilledToRs)
			}
			want := "[10.64.0.0/26 10.64.0.64/26 10.64.0.128/26 10.64.0.192/26]"
			for name, table := range report.Tables {
				if rib, kernel := fmt.Sprint(table.RIB), fmt.Sprint(table.Kernel); rib != want || kernel != want {
					t.Errorf("%s has %s in its table and %s in its kernel, want %s", name, rib, kernel, want)
				}
			}
			if !strings.Contains(text.String(), "OK: all as it should be") {
				t.Error("the report does not say OK")
			}
		})
	}
}

func TestDemoDualStack(t *testing.T) {
	for i, kind := range tor.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			report := run(t, fabric.Shape{Name: fmt.Sprintf("dual%d", i), Tor: kind, Racks: 2, Hosts: 1, Containers: 3, IPv6: true}, 20)
			if !report.OK {
				t.Fatalf("not as it should be: %q", report.Failures)
			}
			if want := 2 * 3 * 3 * 2; report.PingsSent != want {
				t.Errorf("%d pings, want %d: both families between 3 and 3 containers, both ways", report.PingsSent, want)
			}
		})
	}
}

// TestReportJudges proves that a demo can fail.
func TestReportJudges(t *testing.T) {
	good := demo.Report{Hosts: 4, Containers: 80, TorPrefixes: 4, TorKernelPrefixes: 4, PingsSent: 100, FailoverSent: 1000, FailoverMS: 40,
		Life: &demo.Life{Address: "10.64.0.7", Alive: "NOERROR 10.64.0.7", Afterward: "NXDOMAIN", Container: "web1", Ledger: "web1"}}
	life := func(spoil func(*demo.Life)) func(*demo.Report) {
		return func(r *demo.Report) {
			l := *r.Life
			spoil(&l)
			r.Life = &l
		}
	}
	for name, spoil := range map[string]func(*demo.Report){
		"":                          func(*demo.Report) {},
		"prefixes in the container": func(r *demo.Report) { r.TorPrefixes = 80 },
		"kernel holds":              func(r *demo.Report) { r.TorKernelPrefixes = 3 },
		"pings were lost":           func(r *demo.Report) { r.PingsLost = 1 },
		"no container pinged":       func(r *demo.Report) { r.PingsSent = 0 },
		"no container's name":       func(r *demo.Report) { r.Life = nil },
		"right after its attach":    life(func(l *demo.Life) { l.Alive = "NXDOMAIN" }),
		"right after its detach":    life(func(l *demo.Life) { l.Afterward = "NOERROR 10.64.0.7" }),
		"for who had 10.64.0.7":     life(func(l *demo.Life) { l.Ledger = "" }),
		"BGP UPDATEs reached":       func(r *demo.Report) { r.Updates = 1 },
		"traffic was silent":        func(r *demo.Report) { r.FailoverMS = 3000 },
		"no traffic crossed":        func(r *demo.Report) { r.FailoverSent = 0 },
		"after a ToR of each rack":  func(r *demo.Report) { r.AfterFailoverLost = 2 },
	} {
		r := good
		spoil(&r)
		r.Judge()
		if r.OK != (name == "") || !strings.Contains(strings.Join(r.Failures, "\n"), name) {
			t.Errorf("%q: OK %v, failures %q", name, r.OK, r.Failures)
		}
	}
}

func TestReportJSON(t *testing.T) {
	out, err := json.Marshal(&demo.Report{})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(out, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containers", "tor_prefixes", "per_container_prefixes", "pings_sent", "pings_lost", "life", "cycles",
		"bgp_updates_during_cycles", "failover_packets_lost", "failover_ms", "ok"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("the JSON report has no %q", name)
		}
	}
}
