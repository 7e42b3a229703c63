// Package demo runs the main job of Hostfabric in a lab and measures it: tables, reachability, churn, failover.
package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// Options say what to run.
type Options struct {
	Fabric   fabric.Options
	Cycles   int                   // attach/detach cycles
	Keep     bool                  // leave the lab standing
	Progress func(fabric.Progress) // may be nil
}

// failover traffic: flows of numbered UDP packets between containers of different hosts.
const (
	failoverFlows = 16
	failoverRate  = 1000            // packets a second of each
	failoverLead  = time.Second     // of traffic before the kill
	failoverTail  = 3 * time.Second // and after it
)

// Run builds a fabric, measures it and removes it again. An error means that it could not be measured; a fabric that
// was measured and found wrong is in the report.
func Run(ctx context.Context, opts Options) (_ *Report, err error) {
	began := time.Now()
	lab, err := fabric.Up(ctx, opts.Fabric, opts.Progress)
	if err != nil {
		return nil, err
	}
	if !opts.Keep {
		defer func() {
			err = errors.Join(err, fabric.Down(context.WithoutCancel(ctx), lab.Plan.Shape))
		}()
	}
	d := &demo{lab: lab, opts: opts, report: &Report{Tor: string(lab.Plan.Tor), Racks: len(lab.Plan.Racks), Hosts: len(lab.Plan.AllHosts())}}
	if d.hosts, err = workload.Dial(lab); err != nil {
		return nil, err
	}
	defer d.hosts.Close()
	if err := d.converge(ctx); err != nil {
		return nil, err
	}
	d.report.UpSeconds = time.Since(began).Seconds()
	for _, step := range []func(context.Context) error{d.attach, d.tables, d.ping, d.live, d.cycle, d.failover} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	d.report.Seconds = time.Since(began).Seconds()
	d.report.Judge()
	return d.report, nil
}

type demo struct {
	lab        *fabric.Lab
	opts       Options
	hosts      *workload.Hosts
	containers []workload.Container
	report     *Report
}

func (d *demo) progress(step string) func(done, total int) {
	return func(done, total int) {
		if d.opts.Progress != nil {
			d.opts.Progress(fabric.Progress{Step: step, Done: done, Total: total})
		}
	}
}

// convergeTimeout is for the routes to reach every host's kernel once every router has them.
const convergeTimeout = 30 * time.Second

func (d *demo) converge(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, convergeTimeout, fmt.Errorf("not within %s", convergeTimeout))
	defer cancel()
	return d.hosts.AwaitRoutes(ctx, d.progress("converged hosts"))
}

func (d *demo) attach(ctx context.Context) error {
	var err error
	d.containers, err = d.hosts.AttachAll(ctx, d.progress("attached containers"))
	d.report.Containers = len(d.containers)
	d.report.ContainersPerHost = d.lab.Plan.Containers
	d.report.PerContainerPrefixes = len(d.containers)
	return err
}

// tables reads every ToR's table, from the router itself and from the kernel of its namespace.
func (d *demo) tables(ctx context.Context) error {
	space := d.lab.Plan.Space[0]
	d.report.Tables = make(map[string]Table)
	for _, r := range d.lab.Plan.Routers() {
		if r.Name == d.lab.Plan.Spine.Name {
			continue
		}
		t := d.lab.Tor(r.Name)
		rib, err := t.Prefixes(ctx, space)
		if err != nil {
			return fmt.Errorf("table of %s: %w", r.Name, err)
		}
		kernel, err := t.KernelPrefixes(ctx, space)
		if err != nil {
			return fmt.Errorf("kernel table of %s: %w", r.Name, err)
		}
		d.report.Tables[r.Name] = Table{RIB: rib, Kernel: kernel}
		d.report.TorPrefixes = max(d.report.TorPrefixes, len(rib))
		d.report.TorKernelPrefixes = max(d.report.TorKernelPrefixes, len(kernel))
	}
	return nil
}

func (d *demo) ping(ctx context.Context) error {
	got, err := probe.Ping(ctx, d.pairs(), probe.PingOptions{})
	if err != nil {
		return err
	}
	r := d.report
	r.PingsSent, r.PingsLost = got.Sent, got.Lost
	r.PingMedian, r.PingSeconds = milliseconds(got.Median), got.Took.Seconds()
	return nil
}

// pairs are all containers towards all containers on other hosts, by family.
func (d *demo) pairs() []probe.Pair {
	var all []probe.Endpoint
	host := make(map[string]string)
	for _, c := range d.containers {
		for _, e := range c.Endpoints {
			all, host[e.Name] = append(all, e), c.Host
		}
	}
	return probe.AllToAll(all, func(e probe.Endpoint) string { return host[e.Name] })
}

func (d *demo) cycle(ctx context.Context) error {
	before, err := d.updates(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.hosts.Cycle(ctx, d.opts.Cycles, d.progress("attach/detach cycles")); err != nil {
		return err
	}
	d.report.CycleSeconds = time.Since(began).Seconds()
	after, err := d.updates(ctx)
	d.report.Cycles, d.report.Updates = d.opts.Cycles, after-before
	return err
}

// updates counts the UPDATEs that all ToRs have received.
func (d *demo) updates(ctx context.Context) (sum uint64, err error) {
	for _, rack := range d.lab.Plan.Racks {
		for _, r := range rack.ToRs {
			n, err := d.lab.Tor(r.Name).UpdatesReceived(ctx)
			if err != nil {
				return 0, fmt.Errorf("UPDATEs of %s: %w", r.Name, err)
			}
			sum += n
		}
	}
	return sum, nil
}

// failover kills the first ToR of each rack while numbered packets flow between hosts, then pings once more.
func (d *demo) failover(ctx context.Context) error {
	flows := spread(d.pairs(), failoverFlows)
	r := d.report
	r.FailoverFlows, r.FailoverRate = len(flows), failoverRate
	if len(flows) == 0 {
		return nil
	}
	d.progress("ToR of each rack killed under traffic")(0, 1)
	stream, err := probe.StartStream(ctx, flows, probe.StreamOptions{Rate: failoverRate})
	if err != nil {
		return err
	}
	err = errors.Join(pause(ctx, failoverLead), d.killToRs(), pause(ctx, failoverTail))
	reports := stream.Stop()
	if err != nil {
		return err
	}
	for _, s := range reports {
		r.FailoverSent += s.Sent
		r.FailoverLost += s.Lost
		r.FailoverMS = max(r.FailoverMS, milliseconds(s.Outage))
	}
	d.progress("ToR of each rack killed under traffic")(1, 1)
	after, err := probe.Ping(ctx, d.pairs(), probe.PingOptions{})
	if err != nil {
		return err
	}
	r.AfterFailoverSent, r.AfterFailoverLost = after.Sent, after.Lost
	return nil
}

func (d *demo) killToRs() error {
	var errs []error
	for _, rack := range d.lab.Plan.Racks {
		name := rack.ToRs[0].Name
		d.report.KilledToRs = append(d.report.KilledToRs, name)
		errs = append(errs, d.lab.PowerOff(name))
	}
	return errors.Join(errs...)
}

// spread picks n pairs at even distances.
func spread(pairs []probe.Pair, n int) []probe.Pair {
	if len(pairs) <= n {
		return pairs
	}
	out := make([]probe.Pair, n)
	for i := range out {
		out[i] = pairs[i*len(pairs)/n]
	}
	return out
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func joinPrefixes(ps []netip.Prefix) string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}
