// Package bench measures Hostfabric's numbers in a lab, each beside a peer or a floor in the same run. It measures and
// never judges: a target is printed next to its figure.
package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

// Result is one measured number.
type Result struct {
	Name          string   `json:"name"`
	Unit          string   `json:"unit"`
	Value         float64  `json:"value"`
	P99           *float64 `json:"p99"`            // null where the value is not a median
	Baseline      string   `json:"baseline"`       // what it is measured against
	BaselineValue *float64 `json:"baseline_value"` // null where the target is absolute
	Ratio         *float64 `json:"ratio"`          // value / baseline value
	Target        string   `json:"target"`
	Conditions    string   `json:"conditions"`
}

// against sets the baseline and the ratio.
func (r Result) against(name string, value float64) Result {
	r.Baseline, r.BaselineValue = name, &value
	if value != 0 {
		ratio := r.Value / value
		r.Ratio = &ratio
	}
	return r
}

// Options are what every benchmark gets.
type Options struct {
	Name             string        // of the fabric; default hfbench
	Agent, Shim, Lab string        // binaries: hostfabric, hostfabric-cni, hostfabric-lab
	Plugins          string        // directory with the CNI plugins to compare with: ptp, host-local
	CoreDNS          string        // program to compare dns.answers with; empty: with nothing
	Hosts            int           // of tor.table
	Containers       int           // on each of them
	Cycles           int           // of tor.churn
	Iterations       int           // of attach.*
	Endpoints        int           // of attach.cni.loaded, memory.5000 and dns.answers
	Detaches         int           // of detach.1000
	Churn            time.Duration // that a rate of churn.sustained has to last
	Namespaces       int           // of churn.sustained: it takes two for each container a second
	Rounds           int           // of ipam.durable and dns.answers
	Turn             time.Duration // of one server in dns.answers, with each load
	LedgerRounds     int           // of ledger.ingest
	LedgerEvents     int           // of ledger.query; ledger.size takes a tenth
	Prefixes         int           // of fib.100k and failover.100k
	BFD              bool          // of failover.* and restart.*: hosts and ToRs watch one another
	Progress         func(fabric.Progress)
}

// Benchmark measures one number, or several of one run: the first of its name, the others of names that begin with it.
type Benchmark struct {
	Name string
	Run  func(context.Context, Options) ([]Result, error)
}

// one is a benchmark of a single number.
func one(run func(context.Context, Options) (Result, error)) func(context.Context, Options) ([]Result, error) {
	return func(ctx context.Context, o Options) ([]Result, error) {
		r, err := run(ctx, o)
		if err != nil {
			return nil, err
		}
		return []Result{r}, nil
	}
}

// All are the benchmarks there are, in the order they run.
var All = []Benchmark{
	{"tor.table", one(torTable)},
	{"tor.churn", one(torChurn)},
	{"attach.cni.serial", attachCNISerial},
	{"attach.cni.floor", attachCNIFloor},
	{"attach.cni.parallel16", attachCNIParallel16},
	{"attach.cni.loaded", attachCNILoaded},
	{"attach.api", attachAPI},
	{"attach.names", attachNames},
	{"detach.1000", detach1000},
	{"churn.sustained", churnSustained},
	{"sandbox.acquire", one(sandboxAcquire)},
	{"sandbox.refill", one(sandboxRefill)},
	{"dns.visible", dnsVisible},
	{"ipam.durable", ipamDurable},
	{"dns.answers", dnsAnswers},
	{"ledger.ingest", ledgerIngest},
	{"ledger.size", ledgerSize},
	{"ledger.query", ledgerQuery},
	{"memory.idle", one(memoryIdle)},
	{"memory.5000", memory5000},
	{"fib.100k", fib100k},
	{"failover.10", failover10},
	{"failover.100k", failover100k},
	{"restart.agent", restartAgent},
	{"restart.speaker", restartSpeaker},
	{"restart.upgrade", restartUpgrade},
}

// Select finds benchmarks by name; no name selects all.
func Select(names []string) ([]Benchmark, error) {
	if len(names) == 0 {
		return All, nil
	}
	var chosen []Benchmark
	for _, name := range names {
		i := slices.IndexFunc(All, func(b Benchmark) bool { return b.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no benchmark %q: there are %s", name, strings.Join(Names(), ", "))
		}
		chosen = append(chosen, All[i])
	}
	return chosen, nil
}

// Names lists the benchmarks.
func Names() []string {
	names := make([]string, len(All))
	for i, b := range All {
		names[i] = b.Name
	}
	return names
}

// Print writes the results as a table.
func Print(w io.Writer, results []Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tVALUE\tP99\tUNIT\tBASELINE\tBASELINE VALUE\tRATIO\tTARGET\tCONDITIONS")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t%.4g\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Value, number(r.P99), r.Unit, r.Baseline,
			number(r.BaselineValue), number(r.Ratio), r.Target, r.Conditions)
	}
	return tw.Flush()
}

func number(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.4g", *v)
}
