package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// inFabric builds a fabric of one rack, runs do in it and removes it.
func inFabric(ctx context.Context, o Options, hosts, containers int, do func(*fabric.Lab, *workload.Hosts) error) error {
	return inShape(ctx, o, fabric.Shape{Hosts: hosts, Containers: containers}, do)
}

// inShape is inFabric for a rack of any shape.
func inShape(ctx context.Context, o Options, shape fabric.Shape, do func(*fabric.Lab, *workload.Hosts) error) (err error) {
	shape.Name, shape.Racks = cmp.Or(o.Name, "hfbench"), 1
	opts := fabric.Options{
		Shape: shape,
		Agent: o.Agent, Binary: o.Lab, Timeout: 5 * time.Minute,
	}
	lab, err := fabric.Up(ctx, opts, o.Progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fabric.Down(context.WithoutCancel(ctx), lab.Plan.Shape)) }()
	w, err := workload.Dial(lab)
	if err != nil {
		return err
	}
	defer w.Close()
	return do(lab, w)
}

// torTable counts the prefixes a ToR holds for a full rack, against a route for every container.
func torTable(ctx context.Context, o Options) (Result, error) {
	var r Result
	err := inFabric(ctx, o, o.Hosts, o.Containers, func(lab *fabric.Lab, w *workload.Hosts) error {
		containers, err := w.AttachAll(ctx, o.step("attached containers"))
		if err != nil {
			return err
		}
		most := 0
		for _, tor := range lab.Plan.Racks[0].ToRs {
			prefixes, err := lab.Tor(tor.Name).Prefixes(ctx, lab.Plan.Space[0])
			if err != nil {
				return err
			}
			most = max(most, len(prefixes))
		}
		r = Result{
			Name: "tor.table", Unit: "prefixes", Value: float64(most), Target: fmt.Sprintf("%d of %d", o.Hosts, o.Hosts*o.Containers),
			Conditions: fmt.Sprintf("1 rack, %d hosts x %d containers, embedded ToRs, container space of the ToR with the most", o.Hosts, o.Containers),
		}.against("a route for every container", float64(len(containers)))
		return nil
	})
	return r, err
}

// torChurn counts the UPDATEs that attaching and detaching cause at the ToRs.
func torChurn(ctx context.Context, o Options) (Result, error) {
	const hosts = 4
	var r Result
	err := inFabric(ctx, o, hosts, 1, func(lab *fabric.Lab, w *workload.Hosts) error {
		count := func() (sum uint64, err error) {
			for _, tor := range lab.Plan.Racks[0].ToRs {
				n, err := lab.Tor(tor.Name).UpdatesReceived(ctx)
				if err != nil {
					return 0, err
				}
				sum += n
			}
			return sum, nil
		}
		before, err := count()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := w.Cycle(ctx, o.Cycles, o.step("attach/detach cycles")); err != nil {
			return err
		}
		took := time.Since(began)
		after, err := count()
		if err != nil {
			return err
		}
		r = Result{
			Name: "tor.churn", Unit: "BGP UPDATEs", Value: float64(after - before), Target: "0",
			Conditions: fmt.Sprintf("%d attach/detach cycles on %d hosts in %.0f s, UPDATEs received by both ToRs", o.Cycles, hosts, took.Seconds()),
		}.against("two UPDATEs a cycle and ToR", float64(4*o.Cycles))
		return nil
	})
	return r, err
}

// memoryIdle is the resident memory of an agent with nothing attached, its session to both ToRs up.
func memoryIdle(ctx context.Context, o Options) (Result, error) {
	var r Result
	err := inFabric(ctx, o, 1, 1, func(lab *fabric.Lab, _ *workload.Hosts) error {
		host := lab.Plan.AllHosts()[0]
		agent, err := lab.AgentPID(host.Name)
		if err != nil {
			return err
		}
		mb, err := memoryMB(agent, "VmRSS:")
		if err != nil {
			return err
		}
		r = Result{
			Name: "memory.idle", Unit: "MB", Value: mb, Target: "<= 40",
			Conditions: "resident memory (VmRSS) of the agent process, nothing attached, 2 sessions up",
		}
		return nil
	})
	return r, err
}

// memoryMB is a figure of a process in proc_pid_status(5).
func memoryMB(pid int, figure string) (float64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, figure); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("memory of process %d: no %s", pid, figure)
}

func (o Options) step(name string) func(done, total int) {
	return func(done, total int) {
		if o.Progress != nil {
			o.Progress(fabric.Progress{Step: name, Done: done, Total: total})
		}
	}
}
