package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
)

// A lease that was written before a crash, and whose address was never looked at, is taken unseen by the runtime's next try.
func TestHeldLeaseIsNotLookedAt(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	// What a SIGKILL between Allocate and usedByOther leaves, or a Reject or Release that failed on a full disk.
	if _, err := r.leases.Allocate(ipam.Key{ContainerID: "web", Interface: "eth0"}, ipam.Request{}); err != nil {
		t.Fatal(err)
	}
	r.wirer.mu.Lock()
	r.wirer.suddenly = []endpoint.Use{{Prefix: netip.MustParsePrefix("10.64.0.0/32"), By: "address of br0"}}
	r.wirer.mu.Unlock()
	if ep := r.attach(t, "web"); ep.Addresses[0] == netip.MustParseAddr("10.64.0.0") {
		t.Errorf("the container got %v, which br0 has", ep.Addresses)
	}
}

// TestForeignRouteToTheWholeBlock: one look is enough to know that no address of it can be given.
func TestForeignRouteToTheWholeBlock(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	leases, err := ipam.Open(file, ipam.Options{Quarantine: quarantine})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	a := agentOn(t, leases, file, wirer, static.New([]ipam.Block{{Prefix: netip.MustParsePrefix("fd00:64::/64")}}))
	// A reconciliation under way, which saw nothing, would have the addresses given again.
	eventually(t, "the first reconciliation is over, and the next far off", func() bool { return a.Counters().Reconcile > 0 })
	wirer.mu.Lock()
	wirer.suddenly = []endpoint.Use{{Prefix: netip.MustParsePrefix("fd00:64::/64"), By: "route to fd00:64::/64 by docker0"}}
	wirer.mu.Unlock()
	if _, err := a.Attach(t.Context(), request("web")); !errors.Is(err, agent.ErrExhausted) {
		t.Errorf("Attach = %v, want %v", err, agent.ErrExhausted)
	}
	wirer.mu.Lock()
	defer wirer.mu.Unlock()
	if wirer.asked != 1 {
		t.Errorf("%d addresses were tried", wirer.asked)
	}
}

// grower is a source that has what it has.
type grower struct {
	have  []ipam.Block
	pools []ipam.Pool
	grown atomic.Int64
	next  map[string]string // by pool
}

func (g *grower) Name() string                                   { return "etcd" }
func (g *grower) Blocks(context.Context) ([]ipam.Block, error)   { return g.have, nil }
func (g *grower) Pools() []ipam.Pool                             { return g.pools }
func (g *grower) Release(context.Context, []netip.Prefix) error  { return nil }
func (g *grower) Watch(context.Context) (<-chan struct{}, error) { return make(chan struct{}), nil }
func (g *grower) Claim(context.Context, string, []netip.Prefix) ([]ipam.Block, error) {
	return nil, errors.New("no")
}
func (g *grower) Siblings(context.Context, []netip.Prefix) (map[netip.Prefix]ipam.Sibling, error) {
	return nil, nil
}
func (g *grower) Grow(_ context.Context, gr ipam.Growth) ([]ipam.Block, error) {
	g.grown.Add(1)
	p, ok := g.next[gr.Pool]
	if !ok {
		return nil, ipam.ErrPoolFull
	}
	delete(g.next, gr.Pool)
	return []ipam.Block{{Prefix: netip.MustParsePrefix(p), Pool: gr.Pool, Source: "etcd"}}, nil
}

func agentOn(t *testing.T, leases *ipam.Allocator, file string, w agent.Wirer, source ipam.Source) *agent.Agent {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	table, speaker := &fakeTable{}, &fakeSpeaker{}
	keeper := blocks.New(blocks.Options{
		Source: source, Record: file + ".blocks2", Settings: blocks.Settings{Budget: blocks.Budget{IPv4: 4, IPv6: 4}},
		Gate: func() error { return nil }, Occupant: func(context.Context, netip.Prefix) (string, error) { return "", nil }, Follow: func(context.Context, []netip.Prefix, []netip.Addr) error { return nil }, Log: log,
	}, leases, table, speaker)
	if err := keeper.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := agent.New(agent.Options{Host: "h1", MTU: func() int { return 1500 }, Log: log}, leases, keeper, w, table, speaker)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-a.Restored()
	return a
}

// An attach that names an address of a pool, and not the pool, waits for the default pool when the other family is exhausted.
func TestWaitsForTheWrongPool(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases")
	leases, err := ipam.Open(file, ipam.Options{Quarantine: quarantine})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	g := &grower{
		have: []ipam.Block{
			{Prefix: netip.MustParsePrefix("10.64.0.0/28"), Pool: "default", Source: "etcd"},
			{Prefix: netip.MustParsePrefix("10.80.0.0/30"), Pool: "web", Source: "etcd"},
			{Prefix: netip.MustParsePrefix("fd00:80::/64"), Pool: "web", Source: "etcd"},
		},
		pools: []ipam.Pool{{Name: "default", BaseIPv4: 28}, {Name: "web", BaseIPv4: 30, BaseIPv6: 64}},
	}
	a := agentOn(t, leases, file, &fakeWirer{}, g)
	for i := range 4 {
		req := request(fmt.Sprintf("c%d", i))
		req.Pool = "web"
		if _, err := a.Attach(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req := request("wish")
	req.Addresses = []netip.Addr{netip.MustParseAddr("fd00:80::77")}
	_, err = a.Attach(ctx, req)
	if err == nil || strings.Contains(err.Error(), "pool default") {
		t.Errorf("%v", err)
	}
}

// An attach to a pool that the fabric knows, and that is full, is no invalid request.
func TestFullPoolIsNoInvalidRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases")
	leases, err := ipam.Open(file, ipam.Options{Quarantine: quarantine})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	g := &grower{
		have:  []ipam.Block{{Prefix: netip.MustParsePrefix("10.64.0.0/28"), Pool: "default", Source: "etcd"}},
		pools: []ipam.Pool{{Name: "default", BaseIPv4: 28}, {Name: "web", BaseIPv4: 30}},
	}
	a := agentOn(t, leases, file, &fakeWirer{}, g)
	req := request("web")
	req.Pool = "web"
	_, err = a.Attach(t.Context(), req)
	if errors.Is(err, agent.ErrInvalid) || !errors.Is(err, agent.ErrExhausted) {
		t.Errorf("invalid %v, exhausted %v: %v", errors.Is(err, agent.ErrInvalid), errors.Is(err, agent.ErrExhausted), err)
	}
}

// TestAttachCutShortByACrash has a link without a record, as a SIGKILL in the middle of wiring leaves it: its address is in use by
// nobody but the container that holds the lease, and the runtime's next try attaches that.
func TestAttachCutShortByACrash(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	first := newRig(t, file, wirer, "10.64.0.0/26")
	ep := first.attach(t, "web")
	first.stop()
	wirer.strip(ep.HostInterface)

	second := newRig(t, file, wirer, "10.64.0.0/26")
	if inUse := second.leases.InUse(); len(inUse) > 0 {
		t.Errorf("set aside: %v", inUse)
	}
	again := second.attach(t, "web") // before reconciliation has collected it, or after
	wirer.mu.Lock()
	l := wirer.links[again.HostInterface]
	wirer.mu.Unlock()
	if l.Alias == "" {
		t.Errorf("the link is still the old one: %+v", l)
	}
	looks := wirer.listed()
	eventually(t, "there were more looks", func() bool { return wirer.listed() > looks+4 })
	if leases := second.leases.Leases(); len(leases) != 1 || leases[0].Addr != again.Addresses[0] {
		t.Errorf("leases %v, want that of %v alone", leases, again.Addresses)
	}
}
