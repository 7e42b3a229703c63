package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// fewEndpoints is what a host with many is compared with.
const fewEndpoints = 10

// attachCNILoaded times CNI ADD on a host with many endpoints beside the same host with few, and bare kernel work beside
// it in turns: what the kernel itself takes longer for is not the agent's.
func attachCNILoaded(ctx context.Context, o Options) ([]Result, error) {
	const name = "attach.cni.loaded"
	var results []Result
	err := inArena(ctx, o, o.Endpoints+2*o.Iterations, func(a *arena) error {
		settled, spare := a.host.Containers[:o.Endpoints], a.host.Containers[o.Endpoints:]
		few := min(fewEndpoints, o.Endpoints)
		measure := func() (ours, floor *side, err error) {
			floor, err = a.floor(ctx)
			if err != nil {
				return nil, nil, err
			}
			ours = a.shim()
			return ours, floor, takeTurns(o, a.host, spare, ours, floor).serially(ctx)
		}
		if err := a.settle(ctx, settled[:few]); err != nil {
			return err
		}
		oursFew, floorFew, err := measure()
		if err != nil {
			return err
		}
		if err := a.settle(ctx, settled[few:]); err != nil {
			return err
		}
		ours, floor, err := measure()
		if err != nil {
			return err
		}
		row := func(name, what, target string, many, few *side) Result {
			return medianOf(Result{
				Name: name, Unit: "ms", Target: target,
				Conditions: fmt.Sprintf("p50 of %d, %s, one at a time, with %d endpoints on the host, each in a namespace of its own", len(many.attached), what, o.Endpoints),
			}, many.attached).against(fmt.Sprintf("with %d endpoints", fewEndpoints), quantile(few.attached, 0.5))
		}
		results = []Result{
			row(name, "CNI ADD, exec to exit", "ratio <= 1.5", ours, oursFew),
			row(name+".floor", "bare kernel work and an empty Go program in turns with it", "for comparison", floor, floorFew),
		}
		return nil
	})
	return results, err
}

// settle attaches containers that stay.
func (a *arena) settle(ctx context.Context, containers []fabric.Container) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	_, _, failed := atOnce(ctx, parallelCallers, containers, api.attach)
	return failed.first
}

// memory5000 is what an agent needs for many endpoints: memory, time to compare them all with their leases, to tell its metrics, and to
// start again and take them over.
func memory5000(ctx context.Context, o Options) ([]Result, error) {
	const name = "memory.5000"
	var results []Result
	err := inArena(ctx, o, o.Endpoints+1, func(a *arena) error {
		containers, next := a.host.Containers[:o.Endpoints], a.host.Containers[o.Endpoints]
		few := min(fewEndpoints, o.Endpoints)
		if err := a.settle(ctx, containers[:few]); err != nil {
			return err
		}
		before, err := a.restart(ctx, next)
		if err != nil {
			return err
		}
		if err := a.settle(ctx, containers[few:]); err != nil {
			return err
		}
		busy, err := a.memory("VmRSS:")
		if err != nil {
			return err
		}
		after, err := a.restart(ctx, next)
		if err != nil {
			return err
		}
		with := fmt.Sprintf("%d endpoints in as many namespaces", o.Endpoints)
		results = []Result{
			{
				Name: name, Unit: "MB", Value: busy, Target: "<= 100",
				Conditions: fmt.Sprintf("resident memory (VmRSS) of the agent, %s, right after they were attached %d at once; after a restart %.3g", with, parallelCallers, after.memory),
			},
			Result{
				Name: name + ".reconcile", Unit: "ms", Value: milliseconds(after.reconcile), Target: "for comparison",
				Conditions: "a comparison of all leases with all links, and with what else uses their addresses (hostfabric_reconcile_seconds); " + with,
			}.against(fmt.Sprintf("with %d endpoints", fewEndpoints), milliseconds(before.reconcile)),
			Result{
				Name: name + ".restart", Unit: "ms", Value: milliseconds(after.took), Target: "for comparison",
				Conditions: "from the start of an agent whose predecessor was killed until it has answered its first attach; " + with,
			}.against(fmt.Sprintf("with %d endpoints", fewEndpoints), milliseconds(before.took)),
			Result{
				Name: name + ".scrape", Unit: "ms", Value: after.scrape, Target: "for comparison",
				Conditions: fmt.Sprintf("p50 of %d scrapes of the agent's metrics, one after the other; %s", scrapes, with),
			}.against(fmt.Sprintf("with %d endpoints", fewEndpoints), before.scrape),
		}
		return nil
	})
	return results, err
}

func (a *arena) memory(figure string) (float64, error) {
	pid, err := a.lab.AgentPID(a.host.Name)
	if err != nil {
		return 0, err
	}
	return memoryMB(pid, figure)
}

// restarted is how an agent came back.
type restarted struct {
	took, reconcile time.Duration
	scrape          float64 // ms
	memory          float64 // MB
}

// restart kills the agent and starts it again. The container tells when it serves.
func (a *arena) restart(ctx context.Context, c fabric.Container) (restarted, error) {
	var r restarted
	if err := a.killAgent(ctx); err != nil {
		return r, err
	}
	began := time.Now()
	if err := a.lab.StartAgent(a.host.Name, a.o.Agent); err != nil {
		return r, err
	}
	w, err := a.dialAgain(ctx)
	if err != nil {
		return r, err
	}
	a.hosts = w
	api, err := a.api()
	if err != nil {
		return r, err
	}
	if _, err := api.attach(ctx, c); err != nil {
		return r, err
	}
	r.took = time.Since(began)
	if _, err := api.detach(ctx, c); err != nil {
		return r, err
	}
	const often = 200 * time.Millisecond // to be asked costs an agent with many endpoints more than to compare them
	err = await(ctx, "the agent has compared leases with links", often, func() (ok bool, err error) {
		r.reconcile, err = a.reconcileTime(ctx)
		return r.reconcile > 0, err
	})
	if err != nil {
		return r, err
	}
	if r.scrape, err = a.scrapeTime(ctx); err != nil {
		return r, err
	}
	r.memory, err = a.memory("VmRSS:")
	return r, errors.Join(err, awaitNoLink(ctx, c.NS, containerLink))
}

func (a *arena) killAgent(ctx context.Context) error {
	pid, err := a.lab.AgentPID(a.host.Name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the agent of %s: %w", a.host.Name, err)
	}
	return await(ctx, "the agent has ended", soon, func() (bool, error) {
		_, err := a.lab.AgentPID(a.host.Name)
		return err != nil, nil
	})
}

// dialAgain connects anew once the agent listens: the old connection waits for longer and longer between its tries.
func (a *arena) dialAgain(ctx context.Context) (*workload.Hosts, error) {
	socket := a.lab.Plan.SocketPath(a.host.Name, "hostfabric.sock")
	err := await(ctx, "the agent listens", soon, func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	if err != nil {
		return nil, err
	}
	if err := a.hosts.Close(); err != nil {
		return nil, err
	}
	return workload.Dial(a.lab)
}

const (
	// patience is how long anything may take that a benchmark waits for.
	patience = 30 * time.Second
	// soon is how often to look for what is timed.
	soon = time.Millisecond
)

// await polls for a condition.
func await(ctx context.Context, what string, every time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not so within %s: %s", patience, what)
		}
	}
}
