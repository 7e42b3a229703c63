package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/names"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// dnsVisible times the first question for a container's name on another host, asked when its attach has returned, beside one for a
// name that has been there for long.
func dnsVisible(ctx context.Context, o Options) ([]Result, error) {
	var results []Result
	err := inFabric(ctx, o, 2, 1, func(lab *fabric.Lab, w *workload.Hosts) error {
		if err := w.AwaitRoutes(ctx, nil); err != nil {
			return err
		}
		of, from := lab.Plan.AllHosts()[0], lab.Plan.AllHosts()[1]
		client, err := w.Client(of.Name)
		if err != nil {
			return err
		}
		c := of.Containers[0]
		resp, err := client.Attach(ctx, &apiv1.AttachRequest{ContainerId: c.Name, Interface: containerLink, Netns: c.NS.Path(), Name: "standing"})
		if err != nil {
			return err
		}
		report, err := names.Live(ctx, names.Options{
			Lab: lab, Hosts: w, Of: of, From: from, Lives: o.Iterations, Workers: 1, Progress: o.step("containers looked up"),
			Standing: names.FQDN("standing", of.Name), Answer: "NOERROR " + resp.GetEndpoint().GetAddresses()[0],
		})
		if err != nil {
			return err
		}
		first, before := inMilliseconds(report.First), inMilliseconds(report.Before)
		results = []Result{
			medianOf(Result{
				Name: "dns.visible", Unit: "ms", Target: "first query",
				Conditions: fmt.Sprintf("p50 of %d first queries, asked of another host when the attach has returned; of %d answers while they lived and after, %d were wrong",
					len(first), report.Queries, report.WrongCount),
			}, first).against(fmt.Sprintf("a name that is there for long, p50 (p99 %.3g)", quantile(before, 0.99)), quantile(before, 0.5)),
		}
		if report.WrongCount > 0 {
			return fmt.Errorf("%d wrong answers, such as %v", report.WrongCount, report.Wrong)
		}
		return nil
	})
	return results, err
}

func inMilliseconds(all []time.Duration) []float64 {
	out := make([]float64, len(all))
	for i, d := range all {
		out[i] = milliseconds(d)
	}
	return out
}

// withoutNames is what a host's configuration says that does without DNS and the ledger.
const withoutNames = "dns: {enabled: false}\nhistory: {enabled: false}\n"

// attachNames times Attach with a name and labels, on a host that has DNS and the ledger in turns with one that does without.
func attachNames(ctx context.Context, o Options) ([]Result, error) {
	var results []Result
	shape := fabric.Shape{Hosts: 2, Containers: 2 * o.Iterations, Extra: map[string]string{"r1h2": withoutNames}}
	err := inShape(ctx, o, shape, func(lab *fabric.Lab, w *workload.Hosts) error {
		with, err := namedSide(w, "r1h1")
		without, errOther := namedSide(w, "r1h2")
		if err := errors.Join(err, errOther); err != nil {
			return err
		}
		host := lab.Plan.AllHosts()[0]
		if err := takeTurns(o, host, host.Containers, with, without).serially(ctx); err != nil {
			return err
		}
		row := func(name, verb string, mine, others []float64) Result {
			return medianOf(Result{
				Name: name, Unit: "ms", Target: "ratio <= 1.05",
				Conditions: fmt.Sprintf("p50 of %d, %s over the API socket, of containers with a name and labels, in turns with the baseline", len(mine), verb),
			}, mine).against(fmt.Sprintf("without DNS and ledger, p50 (p99 %.3g)", quantile(others, 0.99)), quantile(others, 0.5))
		}
		results = []Result{
			row("attach.names", "Attach", with.attached, without.attached),
			row("attach.names.del", "Detach", with.detached, without.detached),
		}
		return nil
	})
	return results, err
}

// namedSide is a host's API, used by who has a name for every container.
func namedSide(w *workload.Hosts, host string) (*side, error) {
	client, err := w.Client(host)
	if err != nil {
		return nil, err
	}
	s := apiSide(client)
	s.attach = func(ctx context.Context, c fabric.Container) (time.Duration, error) {
		began := time.Now()
		_, err := client.Attach(ctx, &apiv1.AttachRequest{
			ContainerId: c.Name, Interface: containerLink, Netns: c.NS.Path(), Name: c.Name,
			Labels: map[string]string{"app": "bench", "io.kubernetes.pod.name": c.Name},
		})
		return time.Since(began), err
	}
	return s, nil
}
