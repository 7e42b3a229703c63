package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// sandboxRound is how many are acquired until the pool is given time to fill up again: it would share the processors with what is
// measured.
const sandboxRound = 50

// sandboxAcquire times AcquireSandbox with ready ones, in turns with a call that does nothing over the same connection.
func sandboxAcquire(ctx context.Context, o Options) (Result, error) {
	var r Result
	round := min(sandboxRound, o.Iterations)
	// Nothing is refilled within a round: the low mark of the lab's pool is its high mark, so a round takes all there are.
	shape := fabric.Shape{Hosts: 1, Containers: 2 * round, Sandboxes: round}
	err := inShape(ctx, o, shape, func(lab *fabric.Lab, _ *workload.Hosts) error {
		socket := lab.Plan.SocketPath(lab.Plan.AllHosts()[0].Name, "hostfabric.sock")
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		b := &acquirer{api: apiv1.NewHostfabricClient(conn), health: healthpb.NewHealthClient(conn)}
		for len(b.acquired) < o.Iterations {
			if err := b.round(ctx, round); err != nil {
				return err
			}
			o.step("sandboxes acquired")(len(b.acquired), o.Iterations)
		}
		r = medianOf(Result{
			Name: "sandbox.acquire", Unit: "ms", Target: "ratio <= 1.5",
			Conditions: fmt.Sprintf("p50 of %d acquisitions of a ready sandbox over the API socket, in turns with the baseline, the pool being refilled", len(b.acquired)),
		}, b.acquired).against("an empty gRPC call, p50", quantile(b.empty, 0.5))
		return nil
	})
	return r, err
}

// sandboxRefill times attaches while a pool is being refilled, beside attaches of a moment before.
func sandboxRefill(ctx context.Context, o Options) (Result, error) {
	var r Result
	n := o.Iterations
	shape := fabric.Shape{Hosts: 1, Containers: 4 * n, Sandboxes: n}
	err := inShape(ctx, o, shape, func(lab *fabric.Lab, hosts *workload.Hosts) error {
		host := lab.Plan.AllHosts()[0]
		client, err := hosts.Client(host.Name)
		if err != nil {
			return err
		}
		b, side := &acquirer{api: client}, apiSide(client)
		if err := b.awaitReady(ctx, n); err != nil {
			return err
		}
		attach := func(containers []fabric.Container) (took []float64, err error) {
			for _, c := range containers {
				d, err := side.attach(ctx, c)
				if err != nil {
					return nil, err
				}
				took = append(took, milliseconds(d))
			}
			return took, nil
		}
		share := host.Containers[:2*min(n/4+1, n)] // few enough for the refill to last
		quiet, err := attach(share[:len(share)/2])
		if err != nil {
			return err
		}
		for i := range n {
			if _, err := client.AcquireSandbox(ctx, &apiv1.AcquireSandboxRequest{Holder: fmt.Sprint("bench", i)}); err != nil {
				return err
			}
		}
		busy, err := attach(share[len(share)/2:])
		if err != nil {
			return err
		}
		list, err := client.ListSandboxes(ctx, &apiv1.ListSandboxesRequest{})
		if err != nil {
			return err
		}
		r = medianOf(Result{
			Name: "sandbox.refill", Unit: "ms", Target: "ratio <= 1.5",
			Conditions: fmt.Sprintf("p50 of %d attaches over the API while a pool of %d was refilled after all were acquired; %d were ready at the end",
				len(busy), n, len(list.GetSandboxes())-n),
		}, busy).against("the same before, p50", quantile(quiet, 0.5))
		return nil
	})
	return r, err
}

type acquirer struct {
	api             apiv1.HostfabricClient
	health          healthpb.HealthClient
	acquired, empty []float64 // ms
}

// round waits until enough are ready, acquires them and releases them again.
func (b *acquirer) round(ctx context.Context, n int) error {
	if err := b.awaitReady(ctx, n); err != nil {
		return err
	}
	for i := range n {
		began := time.Now()
		if _, err := b.health.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			return err
		}
		b.empty = append(b.empty, milliseconds(time.Since(began)))
		began = time.Now()
		if _, err := b.api.AcquireSandbox(ctx, &apiv1.AcquireSandboxRequest{Holder: fmt.Sprint("bench", i)}); err != nil {
			return err
		}
		b.acquired = append(b.acquired, milliseconds(time.Since(began)))
	}
	for i := range n {
		if _, err := b.api.ReleaseSandbox(ctx, &apiv1.ReleaseSandboxRequest{Holder: fmt.Sprint("bench", i)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *acquirer) awaitReady(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := b.api.ListSandboxes(ctx, &apiv1.ListSandboxesRequest{})
		if err != nil {
			return err
		}
		if len(list.GetSandboxes()) == n {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d sandboxes, want %d ready", len(list.GetSandboxes()), n), ctx.Err())
		}
	}
}
