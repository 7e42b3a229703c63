package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// arena is a fabric in which some take turns on one host.
type arena struct {
	o       Options
	lab     *fabric.Lab
	hosts   *workload.Hosts
	host    fabric.Host
	bare    *bare
	scratch string
}

// inArena builds a fabric with one host and so many containers, runs do in it and removes it.
func inArena(ctx context.Context, o Options, containers int, do func(*arena) error) error {
	return inFabric(ctx, o, 1, containers, func(lab *fabric.Lab, w *workload.Hosts) (err error) {
		a := &arena{o: o, lab: lab, hosts: w, host: lab.Plan.AllHosts()[0]}
		if a.scratch, err = os.MkdirTemp("", "hostfabric-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(a.scratch)
		if a.bare, err = newBare(a.host.NS); err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, a.bare.close())
			if a.hosts != w { // dialled anew
				err = errors.Join(err, a.hosts.Close())
			}
		}()
		return do(a)
	})
}

func (a *arena) shim() *side { return a.o.shim(a.lab, a.host).side("hostfabric-cni", a.host.NS) }
func (a *arena) ptp() *side  { return a.o.ptp(a.scratch).side(ptpName, a.host.NS) }

// floor is what no plugin can do without: bare kernel work, and a program that starts and ends.
func (a *arena) floor(ctx context.Context) (*side, error) {
	program, err := emptyProgram(ctx, a.scratch)
	if err != nil {
		return nil, err
	}
	return a.bare.side("bare kernel work + an empty Go program", func(ctx context.Context) (time.Duration, error) {
		return plugin{binary: program}.run(ctx, a.host.NS, "ADD", "empty", a.host.NS)
	}), nil
}

// api is the agent's gRPC API.
func (a *arena) api() (*side, error) {
	client, err := a.hosts.Client(a.host.Name)
	if err != nil {
		return nil, err
	}
	return apiSide(client), nil
}

func apiSide(client apiv1.HostfabricClient) *side {
	return &side{
		name: "API",
		attach: func(ctx context.Context, c fabric.Container) (time.Duration, error) {
			began := time.Now()
			_, err := client.Attach(ctx, &apiv1.AttachRequest{ContainerId: c.Name, Interface: containerLink, Netns: c.NS.Path()})
			return time.Since(began), err
		},
		detach: func(ctx context.Context, c fabric.Container) (time.Duration, error) {
			began := time.Now()
			_, err := client.Detach(ctx, &apiv1.DetachRequest{ContainerId: c.Name, Interface: containerLink})
			return time.Since(began), err
		},
	}
}

// attachCNISerial times CNI ADD and DEL, one at a time, beside ptp with host-local through the same driver.
func attachCNISerial(ctx context.Context, o Options) ([]Result, error) {
	return serial(ctx, o, "attach.cni.serial", "CNI %s, exec to exit", [2]string{"ratio <= 0.2", "ratio <= 0.2"},
		func(_ context.Context, a *arena) (ours, theirs *side, err error) { return a.shim(), a.ptp(), nil })
}

// attachCNIFloor times the same beside what cannot be had for less.
func attachCNIFloor(ctx context.Context, o Options) ([]Result, error) {
	return serial(ctx, o, "attach.cni.floor", "CNI %s, exec to exit", [2]string{"ratio <= 2", "ratio <= 2"},
		func(ctx context.Context, a *arena) (ours, theirs *side, err error) {
			theirs, err = a.floor(ctx)
			return a.shim(), theirs, err
		})
}

// attachAPI times Attach and Detach over the API socket beside bare kernel work.
func attachAPI(ctx context.Context, o Options) ([]Result, error) {
	return serial(ctx, o, "attach.api", "%s over the API socket", [2]string{"ratio <= 2", "ratio <= 2"},
		func(_ context.Context, a *arena) (ours, theirs *side, err error) {
			ours, err = a.api()
			return ours, a.bare.side("bare kernel work", nil), err
		})
}

// serial has two sides take turns, and reports the first beside the second: attaches under name, detaches under name.del.
func serial(ctx context.Context, o Options, name, what string, targets [2]string, who func(context.Context, *arena) (ours, theirs *side, err error)) ([]Result, error) {
	var results []Result
	err := inArena(ctx, o, 2*o.Iterations, func(a *arena) error {
		ours, theirs, err := who(ctx, a)
		if err != nil {
			return err
		}
		if err := takeTurns(o, a.host, a.host.Containers, ours, theirs).serially(ctx); err != nil {
			return err
		}
		add, del := "ADD", "DEL"
		if ours.name == "API" {
			add, del = "Attach", "Detach"
		}
		row := func(name, verb, target string, mine, others []float64) Result {
			return medianOf(Result{
				Name: name, Unit: "ms", Target: target,
				Conditions: fmt.Sprintf("p50 of %d, "+what+", one at a time, in turns with the baseline", len(mine), verb),
			}, mine).against(fmt.Sprintf("%s, p50 (p99 %.3g)", theirs.name, quantile(others, 0.99)), quantile(others, 0.5))
		}
		results = []Result{
			row(name, add, targets[0], ours.attached, theirs.attached),
			row(name+".del", del, targets[1], ours.detached, theirs.detached),
		}
		return nil
	})
	return results, err
}

// medianOf sets the value to the median of the values, with their p99.
func medianOf(r Result, values []float64) Result {
	p99 := quantile(values, 0.99)
	r.Value, r.P99 = quantile(values, 0.5), &p99
	return r
}

const (
	parallelCallers = 16
	parallelRound   = 50 // containers that a side attaches in one turn
)

// attachCNIParallel16 counts CNI ADDs and DELs in a second with 16 at the same time, beside ptp and host-local.
func attachCNIParallel16(ctx context.Context, o Options) ([]Result, error) {
	const name = "attach.cni.parallel16"
	round := min(parallelRound, o.Iterations)
	var results []Result
	err := inArena(ctx, o, 2*round, func(a *arena) error {
		race := takeTurns(o, a.host, a.host.Containers, a.shim(), a.ptp())
		rounds, tally := max(1, o.Iterations/round), make([]crowd, len(race.sides))
		for i := range rounds {
			for k := range race.sides {
				s := (i + k) % len(race.sides)
				if err := tally[s].round(ctx, race.sides[s], race.containers[s*round:(s+1)*round]); err != nil {
					return err
				}
			}
			o.step("rounds of 16 at once")(i+1, rounds)
		}
		ours, theirs := &tally[0], &tally[1]
		row := func(name, verb, target string, mine, others *verbs) Result {
			p99 := quantile(mine.took, 0.99)
			return Result{
				Name: name, Unit: "/s", Value: quantile(mine.rates, 0.5), P99: &p99, Target: target,
				Conditions: fmt.Sprintf("CNI %s, %d at once, median of %d rounds of %d; p50 of one %.3g ms, p99 (ms) beside; %s; the baseline: p50 %.3g ms, %s",
					verb, parallelCallers, rounds, round, quantile(mine.took, 0.5), mine.failed, quantile(others.took, 0.5), others.failed),
			}.against(ptpName+", /s", quantile(others.rates, 0.5))
		}
		results = []Result{
			row(name, "ADD", "ratio >= 5, none fails", &ours.add, &theirs.add),
			row(name+".del", "DEL", "ratio >= 5, none fails", &ours.del, &theirs.del),
		}
		return nil
	})
	return results, err
}

// crowd is what many callers at the same time got done.
type crowd struct{ add, del verbs }

type verbs struct {
	rates  []float64 // a second, by round
	took   []float64 // ms, of each
	failed failures
}

func (v *verbs) note(took []float64, all time.Duration, failed failures) {
	v.rates = append(v.rates, float64(len(took))/all.Seconds())
	v.took = append(v.took, took...)
	v.failed.join(failed)
}

// round attaches the containers, detaches them, and waits until the kernel is through.
func (c *crowd) round(ctx context.Context, s *side, containers []fabric.Container) error {
	c.add.note(atOnce(ctx, parallelCallers, containers, s.attach))
	c.del.note(atOnce(ctx, parallelCallers, containers, s.detach))
	return awaitNoLinks(ctx, containers)
}

func awaitNoLinks(ctx context.Context, containers []fabric.Container) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelCallers)
	for _, c := range containers {
		g.Go(func() error { return awaitNoLink(ctx, c.NS, containerLink) })
	}
	return g.Wait()
}
