// Package workload plays the containers of a lab: it attaches and detaches their namespaces through the API of each
// host's agent, as a container runtime would.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/probe"
)

const containerInterface = "eth0"

// Container is an attached container of a lab.
type Container struct {
	Host      string
	Endpoints []probe.Endpoint // one an address
}

// Hosts are the agents of a lab.
type Hosts struct {
	hosts []host
}

type host struct {
	fabric.Host
	shape  fabric.Shape
	conn   *grpc.ClientConn
	client apiv1.HostfabricClient
}

// Dial prepares a connection to every agent of the lab.
func Dial(lab *fabric.Lab) (*Hosts, error) {
	w := &Hosts{}
	for _, h := range lab.Plan.AllHosts() {
		socket := lab.Plan.SocketPath(h.Name, "hostfabric.sock")
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32))) // lists of 100,000 routes
		if err != nil {
			return nil, errors.Join(fmt.Errorf("agent of %s: %w", h.Name, err), w.Close())
		}
		w.hosts = append(w.hosts, host{Host: h, shape: lab.Plan.Shape, conn: conn, client: apiv1.NewHostfabricClient(conn)})
	}
	return w, nil
}

// Close closes the connections.
func (w *Hosts) Close() error {
	var errs []error
	for _, h := range w.hosts {
		errs = append(errs, h.conn.Close())
	}
	return errors.Join(errs...)
}

// Client is the API of one host's agent.
func (w *Hosts) Client(name string) (apiv1.HostfabricClient, error) {
	for _, h := range w.hosts {
		if h.Name == name {
			return h.client, nil
		}
	}
	return nil, fmt.Errorf("no host %q in this lab", name)
}

// AttachAll attaches every planned container, all hosts at once. progress may be nil; calls of it do not overlap.
func (w *Hosts) AttachAll(ctx context.Context, progress func(done, total int)) ([]Container, error) {
	attached := make([][]Container, len(w.hosts))
	total := 0
	for i, h := range w.hosts {
		attached[i] = make([]Container, len(h.Containers))
		total += len(h.Containers)
	}
	done := counter(total, progress)
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range w.hosts {
		g.Go(func() error {
			for j, c := range h.Containers {
				eps, err := h.attach(ctx, c)
				if err != nil {
					return err
				}
				attached[i][j] = Container{Host: h.Name, Endpoints: eps}
				done()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var all []Container
	for _, cs := range attached {
		all = append(all, cs...)
	}
	return all, nil
}

// Attach attaches one container of a host.
func (w *Hosts) Attach(ctx context.Context, name string, c fabric.Container) ([]probe.Endpoint, error) {
	for _, h := range w.hosts {
		if h.Name == name {
			return h.attach(ctx, c)
		}
	}
	return nil, fmt.Errorf("no host %q in this lab", name)
}

// Detach detaches one container of a host.
func (w *Hosts) Detach(ctx context.Context, name string, c fabric.Container) error {
	client, err := w.Client(name)
	if err != nil {
		return err
	}
	_, err = client.Detach(ctx, &apiv1.DetachRequest{ContainerId: c.Name, Interface: containerInterface})
	if err != nil {
		return fmt.Errorf("detach %s on %s: %w", c.Name, name, err)
	}
	return nil
}

func (h host) attach(ctx context.Context, c fabric.Container) ([]probe.Endpoint, error) {
	resp, err := h.client.Attach(ctx, &apiv1.AttachRequest{ContainerId: c.Name, Interface: containerInterface, Netns: c.NS.Path()})
	if err != nil {
		return nil, fmt.Errorf("attach %s on %s: %w", c.Name, h.Name, err)
	}
	var eps []probe.Endpoint
	for _, a := range resp.GetEndpoint().GetAddresses() {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return nil, fmt.Errorf("attach %s on %s: answer: %w", c.Name, h.Name, err)
		}
		eps = append(eps, probe.Endpoint{Name: c.Name, NS: c.NS, Addr: addr})
	}
	return eps, nil
}

// workersPerHost is how many cycles a host goes through at the same time, each with a namespace of its own.
const workersPerHost = 8

// scratchNumber is the first container number of the namespaces that Cycle makes: above every planned one's, and of
// the form that removing the lab finds.
const scratchNumber = 90001

// Scratch makes the namespace of one more container on a host, which nothing attaches. Who asks for it deletes it.
func (w *Hosts) Scratch(name string) (fabric.Container, error) {
	for _, h := range w.hosts {
		if h.Name == name {
			return h.scratch(workersPerHost)
		}
	}
	return fabric.Container{}, fmt.Errorf("no host %q in this lab", name)
}

func (h host) scratch(i int) (fabric.Container, error) {
	name := fmt.Sprintf("%s-c%d", h.Name, scratchNumber+i)
	ns, err := netns.Create(h.shape.Name + "-" + name)
	return fabric.Container{Name: name, NS: ns}, err
}

// Cycle attaches and detaches n times, spread over all hosts, and leaves nothing attached.
func (w *Hosts) Cycle(ctx context.Context, n int, progress func(done, total int)) error {
	done := counter(n, progress)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range w.hosts {
		for i := range workersPerHost {
			g.Go(func() error {
				return h.cycle(ctx, i, func() (int, bool) {
					k := next.Add(1)
					return int(k), k <= int64(n)
				}, done)
			})
		}
	}
	return g.Wait()
}

func (h host) cycle(ctx context.Context, worker int, next func() (int, bool), done func()) error {
	scratch, err := h.scratch(worker)
	if err != nil {
		return err
	}
	for {
		k, more := next()
		if !more {
			return scratch.NS.Delete()
		}
		// A new container each time, as in life: the key and so the host's link never repeat.
		c := fabric.Container{Name: fmt.Sprintf("%s-%d", scratch.Name, k), NS: scratch.NS}
		if _, err := h.attach(ctx, c); err != nil {
			return errors.Join(err, c.NS.Delete())
		}
		_, err := h.client.Detach(ctx, &apiv1.DetachRequest{ContainerId: c.Name, Interface: containerInterface})
		if err != nil {
			return errors.Join(fmt.Errorf("detach %s on %s: %w", c.Name, h.Name, err), c.NS.Delete())
		}
		done()
	}
}

// routePoll is how often a host that has not learned every block yet is asked again.
const routePoll = 50 * time.Millisecond

// AwaitRoutes waits until every host has every other host's blocks in its kernel, over every one of its ToRs.
func (w *Hosts) AwaitRoutes(ctx context.Context, progress func(done, total int)) error {
	done := counter(len(w.hosts), progress)
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range w.hosts {
		g.Go(func() error {
			defer done()
			return h.awaitRoutes(ctx, w.hosts)
		})
	}
	return g.Wait()
}

func (h host) awaitRoutes(ctx context.Context, all []host) error {
	tick := time.NewTicker(routePoll)
	defer tick.Stop()
	for {
		began := time.Now()
		missing, err := h.missingRoutes(ctx, all)
		if err != nil {
			return fmt.Errorf("routes of %s: %w", h.Name, err)
		}
		if missing == "" {
			return nil
		}
		tick.Reset(max(routePoll, 4*time.Since(began))) // a list of 100,000 costs the agent more than its work
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("host %s has not learned %s over all its ToRs: %w", h.Name, missing, context.Cause(ctx))
		}
	}
}

// missingRoutes names a block of another host that is not in this host's kernel with a next hop for each ToR.
func (h host) missingRoutes(ctx context.Context, all []host) (string, error) {
	resp, err := h.client.ListRoutes(ctx, &apiv1.ListRoutesRequest{Owner: "fabric"})
	if err != nil {
		return "", err
	}
	legs := make(map[string]int)
	for _, r := range resp.GetRoutes() {
		if r.GetState() == "installed" {
			legs[r.GetPrefix()] = len(r.GetNextHops())
		}
	}
	for _, other := range all {
		if other.Name == h.Name {
			continue
		}
		prefixes, err := other.prefixes(ctx)
		if err != nil {
			return "", err
		}
		for _, p := range prefixes {
			if legs[p.String()] < len(h.Links) {
				return p.String(), nil
			}
		}
	}
	return "", nil
}
