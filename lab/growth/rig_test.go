package growth_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

const (
	burst       = 200             // containers of each host beside its first, which has the stream
	atOnce      = 8               // attaches of a host at the same time
	baseLength  = 26              // of the blocks that the hosts claim
	shrinkAfter = 2 * time.Second // short, to see it
)

// rig is a rack of two hosts that claim their blocks, with a container on each that is attached from the beginning.
type rig struct {
	lab    *fabric.Lab
	hosts  *workload.Hosts
	first  map[string]probe.Endpoint // by host
	watch  *watch
	budget int // IPv4 prefixes that a host may announce

	mu     sync.Mutex             // guards all below
	bursts map[string][]container // attached from the burst, by host, in the order of the answers
	pings  pings
}

// pings are one from each new container, as soon as its attach has returned.
type pings struct {
	sent, lost int
	which      []string // were lost
}

// container is one of the burst, attached.
type container struct {
	fabric.Container
	endpoint probe.Endpoint
}

func newRig(t *testing.T, kind tor.Kind) *rig {
	t.Helper()
	nstest.RequireRoot(t)
	shape := fabric.Shape{
		Name: "grw" + string(kind)[:3], Dir: filepath.Join(fabric.DefaultDir, "g"), // short: unix sockets live below it
		Racks: 1, Hosts: 2, Containers: burst + 1, Tor: kind, Source: fabric.Etcd, BlockIPv4: baseLength, ShrinkAfter: shrinkAfter,
	}
	lab, err := fabric.Up(t.Context(), fabric.Options{Shape: shape, Agent: programs.agent, Binary: programs.lab}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fabric.Down(context.Background(), lab.Plan.Shape); err != nil {
			t.Error(err)
		}
	})
	r := &rig{lab: lab, first: map[string]probe.Endpoint{}, bursts: map[string][]container{}, watch: newWatch(lab)}
	if r.hosts, err = workload.Dial(lab); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.hosts.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for _, h := range lab.Plan.AllHosts() {
		endpoints, err := r.hosts.Attach(ctx, h.Name, h.Containers[0])
		if err != nil {
			t.Fatal(err)
		}
		r.first[h.Name] = endpoints[0]
		r.watch.born(endpoints[0].Addr)
		r.budget = int(r.status(t, h.Name).GetBudgetIpv4())
	}
	return r
}

// unharmed runs disturb under traffic between the first containers, and fails if a packet is lost or a ToR's table is ever not as
// it should be.
func (r *rig) unharmed(t *testing.T, disturb func()) {
	t.Helper()
	stop := r.watch.start(t)
	a, b := r.first[r.hostNames()[0]], r.first[r.hostNames()[1]]
	stream, err := probe.StartStream(t.Context(), []probe.Pair{{From: a, To: b}, {From: b, To: a}}, probe.StreamOptions{Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	disturb()
	reports := stream.Stop()
	stop()
	for _, s := range reports {
		t.Logf("%s -> %s: %d packets sent, %d lost, longest silence %s", s.Pair.From.Addr, s.Pair.To.Addr, s.Sent, s.Lost, s.LongestGap)
		if s.Lost > 0 || s.Sent == 0 {
			t.Errorf("%d of %d packets lost", s.Lost, s.Sent)
		}
	}
	t.Logf("first pings of new containers: %d sent, %d lost %v", r.pings.sent, r.pings.lost, r.pings.which)
	r.watch.judge(t, r.budget)
}

func (r *rig) hostNames() []string {
	var names []string
	for _, h := range r.lab.Plan.AllHosts() {
		names = append(names, h.Name)
	}
	return names
}

// burst are the containers from number i up to number j of each host, beside the first.
func (r *rig) burst(i, j int) map[string][]fabric.Container {
	all := map[string][]fabric.Container{}
	for _, h := range r.lab.Plan.AllHosts() {
		all[h.Name] = h.Containers[1+i : 1+j]
	}
	return all
}

// attach attaches containers on all hosts, some at once. again, which may be nil, says whether to try once more after an error.
func (r *rig) attach(ctx context.Context, all map[string][]fabric.Container, again func(host string, err error) bool) error {
	var hosts errgroup.Group
	for host, containers := range all {
		hosts.Go(func() error {
			g, ctx := errgroup.WithContext(ctx)
			g.SetLimit(atOnce)
			for _, c := range containers {
				g.Go(func() error { return r.attachOne(ctx, host, c, again) })
			}
			return g.Wait()
		})
	}
	return hosts.Wait()
}

const (
	attachPatience = 20 * time.Second
	attachPause    = 100 * time.Millisecond // before a refused attach is tried again
)

func (r *rig) attachOne(ctx context.Context, host string, c fabric.Container, again func(string, error) bool) error {
	for {
		endpoints, err := r.tryAttach(ctx, host, c)
		if err == nil {
			return r.answered(ctx, host, container{c, endpoints[0]})
		}
		if again == nil || !again(host, err) {
			return err
		}
		if err := pause(ctx, attachPause); err != nil {
			return err
		}
	}
}

func (r *rig) tryAttach(ctx context.Context, host string, c fabric.Container) ([]probe.Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	return r.hosts.Attach(ctx, host, c)
}

// answered notes a container whose attach has returned, and has it ping the other host's first container at once.
func (r *rig) answered(ctx context.Context, host string, c container) error {
	r.watch.born(c.endpoint.Addr)
	asked := time.Now()
	report, err := probe.Ping(ctx, []probe.Pair{{From: c.endpoint, To: r.opposite(host)}}, probe.PingOptions{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bursts[host] = append(r.bursts[host], c)
	r.pings.sent += report.Sent
	r.pings.lost += report.Lost
	for range report.Lost {
		r.pings.which = append(r.pings.which, fmt.Sprintf("%s -> %s at %s (send: %v)", c.endpoint.Addr, r.opposite(host).Addr, asked.Format("15:04:05.000"), report.Refused))
	}
	return err
}

func (r *rig) opposite(host string) probe.Endpoint {
	for _, other := range r.hostNames() {
		if other != host {
			return r.first[other]
		}
	}
	return probe.Endpoint{}
}

// attached counts the containers of the burst that are attached.
func (r *rig) attached() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, containers := range r.bursts {
		n += len(containers)
	}
	return n
}

// detach detaches all but the first few of each host's burst.
func (r *rig) detach(ctx context.Context, keep int) error {
	var hosts errgroup.Group
	for host, containers := range r.bursts {
		hosts.Go(func() error {
			g, ctx := errgroup.WithContext(ctx)
			g.SetLimit(atOnce)
			for _, c := range containers[keep:] {
				g.Go(func() error {
					r.watch.dies(c.endpoint.Addr)
					return r.hosts.Detach(ctx, host, c.Container)
				})
			}
			return g.Wait()
		})
	}
	return hosts.Wait()
}

func (r *rig) status(t *testing.T, host string) *apiv1.GetStatusResponse {
	t.Helper()
	client, err := r.hosts.Client(host)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := client.GetStatus(ctx, &apiv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leases are how many addresses each host has handed out.
func (r *rig) leases(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, host := range r.hostNames() {
		n[host] = int(r.status(t, host).GetLeases())
	}
	return n
}

// space is how many addresses each host announces.
func (r *rig) space(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, host := range r.hostNames() {
		client, err := r.hosts.Client(host)
		if err != nil {
			t.Fatal(err)
		}
		prefixes, err := fabric.Announced(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range prefixes {
			n[host] += 1 << (p.Addr().BitLen() - p.Bits())
		}
	}
	return n
}

// log tells what each host has.
func (r *rig) log(t *testing.T, when string) {
	t.Helper()
	for _, host := range r.hostNames() {
		blocks, err := r.hosts.HostBlocks(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		s := r.status(t, host)
		t.Logf("%s: %s has %d leases, blocks %v, announces %v", when, host, s.GetLeases(), blocks, s.GetAnnounced())
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not so within a minute: %s", what)
		case <-tick.C:
		}
	}
}

// wait lets the load go on for a while.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	if err := pause(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// String tells how many, and quotes one.
func (f *refusals) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var hosts []string
	for h, n := range f.count {
		hosts = append(hosts, fmt.Sprintf("%d on %s", n, h))
	}
	slices.Sort(hosts)
	return fmt.Sprintf("%v, such as %q", hosts, f.text)
}
