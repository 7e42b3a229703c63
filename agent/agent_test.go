package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
	"github.com/hostfabric/hostfabric/routes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an agent with a real lease file and fakes around it.
type rig struct {
	*agent.Agent
	leases     *ipam.Allocator
	wirer      *fakeWirer
	table      *fakeTable
	speaker    *fakeSpeaker
	firewall   *fakeFirewall
	names      *fakeNames
	forwarding func(error)  // sets what the agent finds when it looks at the kernel's forwarding
	settle     atomic.Int64 // for how long ToRs are given time, in ns
	links      []string     // what is wrong with the links to peers, for a look from the test's goroutine
	dns        []string     // the same of DNS
	stop       func()
}

const quarantine = time.Hour // no test reuses an address by waiting

func newRig(t *testing.T, file string, wirer *fakeWirer, prefixes ...string) *rig {
	t.Helper()
	return newRigWith(t, file, wirer, nil, prefixes...)
}

func newRigWith(t *testing.T, file string, wirer *fakeWirer, notes agent.Notes, prefixes ...string) *rig {
	t.Helper()
	var own []ipam.Block
	for _, p := range prefixes {
		own = append(own, ipam.Block{Prefix: netip.MustParsePrefix(p)})
	}
	leases, err := ipam.Open(file, ipam.Options{Quarantine: quarantine, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var off error
	r := &rig{leases: leases, wirer: wirer, table: &fakeTable{}, speaker: &fakeSpeaker{}, firewall: &fakeFirewall{}, names: &fakeNames{}}
	drainFile := filepath.Join(filepath.Dir(file), "drain.json")
	drained, err := agent.LoadDrain(drainFile)
	if err != nil {
		t.Fatal(err)
	}
	r.speaker.sessions(t.Context(), drained.Sessions())
	r.speaker.story()
	r.forwarding = func(err error) { mu.Lock(); defer mu.Unlock(); off = err }
	log := slog.New(slog.DiscardHandler)
	keeper := blocks.New(blocks.Options{
		Source: static.New(own), Record: file + ".blocks", Settings: blocks.Settings{Budget: blocks.Budget{IPv4: 4, IPv6: 4}},
		Gate:     func() error { mu.Lock(); defer mu.Unlock(); return off },
		Occupant: func(ctx context.Context, p netip.Prefix) (string, error) { return agent.Occupant(ctx, wirer, p, nil) },
		Follow:   func(context.Context, []netip.Prefix, []netip.Addr) error { return nil },
		Log:      log,
	}, leases, r.table, r.speaker)
	if err := keeper.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Agent = agent.New(agent.Options{Host: "h1", MTU: func() int { return 1500 }, Reconcile: 10 * time.Millisecond, ReservationGrace: 2 * time.Second, Notes: notes, Log: log,
		Live:      func() agent.Live { return agent.Live{Settle: time.Duration(r.settle.Load())} },
		DrainFile: drainFile, Drain: drained, Sessions: r.speaker.sessions, OnDrain: r.speaker.onDrain,
		Links: func() []string { return r.links }, Firewall: r.firewall, Names: r.names,
		DNS: func() agent.DNSStatus { return agent.DNSStatus{Problems: r.dns} }},
		leases, keeper, wirer, r.table, r.speaker)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			if err := leases.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(r.stop)
	<-r.Restored()
	return r
}

func simpleRig(t *testing.T, blocks ...string) *rig {
	return newRig(t, filepath.Join(t.TempDir(), "leases"), &fakeWirer{}, blocks...)
}

func request(id string) agent.AttachRequest {
	return agent.AttachRequest{Key: agent.Key{ContainerID: id, Interface: "eth0"}, Owner: agent.OwnerAPI, Netns: "/run/netns/" + id}
}

func (r *rig) attach(t *testing.T, id string) agent.Endpoint {
	t.Helper()
	ep, err := r.Attach(t.Context(), request(id))
	if err != nil {
		t.Fatal(err)
	}
	return ep
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not so within 10 s: %s", what)
		case <-tick.C:
		}
	}
}

// nothingLeft fails unless links, leases and host routes are gone.
func (r *rig) nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, "no lease is left", func() bool { return len(r.leases.Leases()) == 0 })
	if n, rs := r.wirer.count(), r.table.prefixes(routes.Endpoints); n != 0 || len(rs) != 0 {
		t.Errorf("left behind: %d links, host routes %v", n, rs)
	}
}

func TestAttachDetach(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26", "fd00:64::/64")
	ep := r.attach(t, "web")
	if got := fmt.Sprint(ep.Addresses, ep.Gateways, ep.MTU); got != "[10.64.0.0 fd00:64::] [169.254.1.1 fe80::1] 1500" {
		t.Errorf("endpoint %s", got)
	}
	if got := r.table.prefixes(routes.Endpoints); !slices.Equal(got, []string{"10.64.0.0/32", "fd00:64::/128"}) {
		t.Errorf("host routes %v", got)
	}
	again := r.attach(t, "web")
	if !slices.Equal(again.Addresses, ep.Addresses) || r.wirer.count() != 1 {
		t.Errorf("a repeated attach gave %v with %d links, want the recorded %v and one", again.Addresses, r.wirer.count(), ep.Addresses)
	}
	for _, want := range []bool{true, false} {
		found, err := r.Detach(t.Context(), ep.Key)
		if err != nil || found != want {
			t.Errorf("Detach = %v, %v, want %v", found, err, want)
		}
	}
	r.nothingLeft(t)
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	refused := errors.New("refused by the kernel")
	for _, tt := range []struct {
		name  string
		spoil func(*rig)
		want  error
	}{
		{"wiring", func(r *rig) { r.wirer.wireErr = fmt.Errorf("x: %w", endpoint.ErrNotNetns) }, agent.ErrNetns},
		{"link exists", func(r *rig) { r.wirer.wireErr = fmt.Errorf("x: %w", endpoint.ErrLinkExists) }, agent.ErrLinkExists},
		{"route", func(r *rig) { r.table.upsertErr = refused }, refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := simpleRig(t, "10.64.0.0/26")
			tt.spoil(r)
			if _, err := r.Attach(t.Context(), request("web")); !errors.Is(err, tt.want) {
				t.Fatalf("Attach = %v, want %v", err, tt.want)
			}
			r.nothingLeft(t)
		})
	}
}

func TestLeaseOfALinkThatCannotBeRemovedIsKept(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	refused := errors.New("refused by the kernel")
	r.table.upsertErr, r.wirer.retireErr = refused, refused
	if _, err := r.Attach(t.Context(), request("web")); err == nil || !strings.Contains(err.Error(), "is kept") {
		t.Errorf("Attach = %v, want it to say that the lease is kept", err)
	}
	if n := len(r.leases.Leases()); n != 1 || r.wirer.count() != 1 {
		t.Errorf("%d leases and %d links, want the one of the other", n, r.wirer.count())
	}
}

func TestBadRequestChangesNothing(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	for name, spoil := range map[string]func(*agent.AttachRequest){
		"no container ID":      func(q *agent.AttachRequest) { q.ContainerID = "" },
		"odd container ID":     func(q *agent.AttachRequest) { q.ContainerID = "../x" },
		"interface of 16":      func(q *agent.AttachRequest) { q.Interface = strings.Repeat("e", 16) },
		"interface with /":     func(q *agent.AttachRequest) { q.Interface = "a/b" },
		"no namespace":         func(q *agent.AttachRequest) { q.Netns = "" },
		"relative namespace":   func(q *agent.AttachRequest) { q.Netns = "netns/web" },
		"tiny mtu":             func(q *agent.AttachRequest) { q.MTU = 100 },
		"negative mtu":         func(q *agent.AttachRequest) { q.MTU = -1 },
		"huge mtu":             func(q *agent.AttachRequest) { q.MTU = 70000 },
		"address not in block": func(q *agent.AttachRequest) { q.Addresses = []netip.Addr{netip.MustParseAddr("10.9.9.9")} },
		"two addresses of a family": func(q *agent.AttachRequest) {
			q.Addresses = []netip.Addr{netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("10.64.0.2")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := request("web")
			spoil(&q)
			_, err := r.Attach(t.Context(), q)
			if !errors.Is(err, agent.ErrInvalid) && !errors.Is(err, agent.ErrNetns) && !errors.Is(err, agent.ErrNotInBlock) {
				t.Errorf("Attach = %v, want it refused", err)
			}
		})
	}
	r.nothingLeft(t)
}

func TestFullBlock(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/30")
	for i := range 4 {
		r.attach(t, fmt.Sprintf("c%d", i))
	}
	if _, err := r.Attach(t.Context(), request("one-more")); !errors.Is(err, agent.ErrExhausted) {
		t.Fatalf("Attach to a full block = %v, want %v", err, agent.ErrExhausted)
	}
	if got := len(r.leases.Leases()); got != 4 || r.wirer.count() != 4 {
		t.Errorf("%d leases and %d links after the refusal, want 4 and 4", got, r.wirer.count())
	}
}

func TestMismatch(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	r.attach(t, "web")
	q := request("web")
	q.Addresses = []netip.Addr{netip.MustParseAddr("10.64.0.9")}
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrMismatch) {
		t.Errorf("repeated attach that wants another address = %v, want %v", err, agent.ErrMismatch)
	}
	q = request("web")
	q.Netns = "/run/netns/other"
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrMismatch) {
		t.Errorf("repeated attach in another namespace = %v, want %v", err, agent.ErrMismatch)
	}
}

// A request for one address of a dual-stack container is as idempotent as any.
func TestRepeatedAttachThatWantsAnAddressOfOneFamily(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26", "fd00:64::/64")
	for _, wanted := range []string{"10.64.0.9", "fd00:64::9"} {
		q := request("web")
		q.Addresses = []netip.Addr{netip.MustParseAddr(wanted)}
		first, err := r.Attach(t.Context(), q)
		if err != nil || len(first.Addresses) != 2 {
			t.Fatalf("attach that wants %s = %v, %v; want both families", wanted, first.Addresses, err)
		}
		again, err := r.Attach(t.Context(), q)
		if err != nil || !slices.Equal(again.Addresses, first.Addresses) {
			t.Errorf("the same once more = %v, %v; want %v", again.Addresses, err, first.Addresses)
		}
		if _, err := r.Detach(t.Context(), q.Key); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadNamespaceIsWiredAnewWithTheSameAddress(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	ep := r.attach(t, "web")
	// Reconciliation needs two looks to free the lease; the second attach may come before or after.
	r.wirer.vanish(ep.HostInterface)
	q := request("web")
	q.Netns = "/run/netns/web2"
	again, err := r.Attach(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if again.Netns != q.Netns || r.wirer.count() != 1 {
		t.Errorf("wired anew in %s with %d links, want %s and 1", again.Netns, r.wirer.count(), q.Netns)
	}
}

func TestLeaseStaysUntilTheLinkIsGone(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	ep := r.attach(t, "web")
	hold := make(chan struct{})
	r.wirer.mu.Lock()
	r.wirer.hold = hold
	r.wirer.mu.Unlock()
	if _, err := r.Detach(t.Context(), ep.Key); err != nil {
		t.Fatal(err)
	}
	if leases := r.Leases(); len(leases) != 1 || leases[0].State != "releasing" {
		t.Errorf("leases while the link is going: %+v, want one that is releasing", leases)
	}
	// The namespace's interface name is still taken: the next attach waits for it instead of failing.
	q := request("web2")
	q.Netns = ep.Netns
	attached := make(chan error, 1)
	go func() { _, err := r.Attach(t.Context(), q); attached <- err }()
	r.wirer.mu.Lock()
	r.wirer.hold = nil
	r.wirer.mu.Unlock()
	close(hold)
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	if _, err := r.Detach(t.Context(), q.Key); err != nil {
		t.Fatal(err)
	}
	r.nothingLeft(t)
}

func TestRestartKeepsEndpoints(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	first := newRig(t, file, wirer, "10.64.0.0/26")
	ep := first.attach(t, "web")
	gone := first.attach(t, "gone")
	first.stop()
	wirer.vanish(gone.HostInterface) // its container died while the agent was away

	second := newRig(t, file, wirer, "10.64.0.0/26")
	if got := second.table.prefixes(routes.Endpoints); !slices.Equal(got, []string{ep.Addresses[0].String() + "/32"}) {
		t.Errorf("host routes after the restart: %v", got)
	}
	again, err := second.Attach(t.Context(), request("web"))
	if err != nil || !slices.Equal(again.Addresses, ep.Addresses) || again.Owner != ep.Owner {
		t.Errorf("repeated attach after the restart = %+v, %v, want %+v", again, err, ep)
	}
	eventually(t, "the orphaned lease is freed", func() bool { return len(second.leases.Leases()) == 1 })
	if got := len(second.Endpoints()); got != 1 {
		t.Errorf("%d endpoints after the restart, want 1", got)
	}
}

// TestReconcileSparesAContainerAttachedMeanwhile holds an attach in the middle of wiring while reconciliation sees its
// lease without a link again and again.
func TestReconcileSparesAContainerAttachedMeanwhile(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	wiring := make(chan struct{})
	r.wirer.mu.Lock()
	r.wirer.wiring = wiring
	r.wirer.mu.Unlock()
	attached := make(chan error, 1)
	go func() { _, err := r.Attach(t.Context(), request("web")); attached <- err }()
	<-wiring
	// It has looked twice at the lease without a link, and waits for the key by now, when it no longer lists.
	still, last := 0, -1
	eventually(t, "reconciliation wants the lease", func() bool {
		if n := r.wirer.listed(); n != last {
			still, last = 0, n
		}
		still++
		return still > 50
	})
	r.wirer.mu.Lock()
	r.wirer.wiring = nil
	r.wirer.mu.Unlock()
	close(wiring)
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	eventually(t, "reconciliation goes on", func() bool { return r.wirer.listed() > last+3 })
	if n := len(r.Endpoints()); n != 1 || r.wirer.count() != 1 || len(r.leases.Leases()) != 1 {
		t.Errorf("%d endpoints, %d links, %d leases: the container was taken for dead", n, r.wirer.count(), len(r.leases.Leases()))
	}
}

func TestCollectKeepsToItsOwner(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	for i, owner := range []string{agent.OwnerAPI, agent.OwnerCNI("a"), agent.OwnerCNI("a"), agent.OwnerCNI("b")} {
		q := request(fmt.Sprintf("c%d", i))
		q.Owner = owner
		if _, err := r.Attach(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	detached, err := r.Collect(t.Context(), agent.OwnerCNI("a"), []agent.Key{{ContainerID: "c1", Interface: "eth0"}})
	if err != nil || fmt.Sprint(detached) != "[c2/eth0]" {
		t.Errorf("Collect = %v, %v, want c2 alone", detached, err)
	}
	if got := len(r.Endpoints()); got != 3 {
		t.Errorf("%d endpoints are left, want 3", got)
	}
}

func TestHealthGate(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/27", "10.64.0.32/27")
	announces := func(want string) func() bool {
		return func() bool {
			got, _ := r.speaker.Announced(t.Context())
			return fmt.Sprint(got) == want
		}
	}
	eventually(t, "the cover of both blocks is announced", announces("[10.64.0.0/26]"))
	r.forwarding(errors.New("net.ipv4.ip_forward is 0"))
	eventually(t, "nothing is announced while forwarding is off", announces("[]"))
	if problems := r.Status(t.Context()).Problems; len(problems) != 1 || !strings.Contains(problems[0], "ip_forward") {
		t.Errorf("problems %q, want ip_forward named", problems)
	}
	r.forwarding(nil)
	eventually(t, "the cover is announced again", announces("[10.64.0.0/26]"))
	r.table.mu.Lock()
	r.table.failing = routes.Blocks
	r.table.mu.Unlock()
	eventually(t, "nothing is announced without discard routes", announces("[]"))
}

func TestStatusNamesWhatReachesNobody(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26", "fd00:64::/64")
	eventually(t, "all is well", func() bool { s := r.Status(t.Context()); return len(s.Announced) == 2 && len(s.Problems) == 0 })
	r.speaker.mu.Lock()
	r.speaker.deaf = bgp.IPv6
	r.speaker.mu.Unlock()
	if problems := r.Status(t.Context()).Problems; len(problems) != 1 || !strings.Contains(problems[0], "fd00:64::/64 is announced to no peer") {
		t.Errorf("problems %q, want the IPv6 block named", problems)
	}
}

func TestRemovedBlockKeepsItsContainers(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	first := newRig(t, file, wirer, "10.64.0.0/26")
	ep := first.attach(t, "web")
	first.stop()
	second := newRig(t, file, wirer, "10.64.0.128/26")
	announces := func(want string) func() bool {
		return func() bool {
			got, _ := second.speaker.Announced(t.Context())
			return fmt.Sprint(got) == want
		}
	}
	eventually(t, "both blocks are announced", announces("[10.64.0.0/26 10.64.0.128/26]"))
	eventually(t, "the new block is in use", func() bool { return second.attach(t, "new").Addresses[0].String() == "10.64.0.128" })
	if _, err := second.Detach(t.Context(), ep.Key); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the removed block is withdrawn after its last lease", announces("[10.64.0.128/26]"))
}

// TestUnfinishedLinkIsCollected has what a crash in the middle of wiring leaves: a lease, and a link that does not say whose it is.
func TestUnfinishedLinkIsCollected(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	first := newRig(t, file, wirer, "10.64.0.0/26")
	half, whole := first.attach(t, "half"), first.attach(t, "whole")
	first.stop()
	wirer.strip(half.HostInterface)

	second := newRig(t, file, wirer, "10.64.0.0/26")
	eventually(t, "the lease of the unfinished one is freed", func() bool { return len(second.leases.Leases()) == 1 })
	if _, held := second.leases.Lookup(ipam.Key(whole.Key)); !held || wirer.count() != 1 {
		t.Errorf("the finished one: held %v, %d links", held, wirer.count())
	}
	wirer.strip(whole.HostInterface) // by hand, of a container that this run knows to live
	looks := wirer.listed()
	eventually(t, "there were more looks", func() bool { return wirer.listed() > looks+4 })
	if _, held := second.leases.Lookup(ipam.Key(whole.Key)); !held {
		t.Error("a living container was detached as its link no longer says whose it is")
	}
}

func TestContainerWithoutALeaseIsLeftInPeace(t *testing.T) {
	dir, wirer := t.TempDir(), &fakeWirer{}
	first := newRig(t, filepath.Join(dir, "leases"), wirer, "10.64.0.0/30")
	ep := first.attach(t, "web")
	first.stop()
	if err := os.Remove(filepath.Join(dir, "leases")); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, filepath.Join(dir, "leases"), wirer, "10.64.0.0/30")
	if got := second.table.prefixes(routes.Endpoints); !slices.Equal(got, []string{ep.Addresses[0].String() + "/32"}) {
		t.Errorf("host routes after the loss of the lease file: %v", got)
	}
	if problems := strings.Join(second.Status(t.Context()).Problems, "\n"); !strings.Contains(problems, "10.64.0.0/32 is in use without a lease, and not handed out: container web/eth0") {
		t.Errorf("problems %q, want the container named", problems)
	}
	for i := range 3 {
		if other := second.attach(t, fmt.Sprintf("other%d", i)); other.Addresses[0] == ep.Addresses[0] {
			t.Fatalf("%s was given a second time", ep.Addresses[0])
		}
	}
	if found, err := second.Detach(t.Context(), ep.Key); err != nil || !found {
		t.Fatalf("detach of the container without a lease: %v, %v", found, err)
	}
	eventually(t, "its address is no longer set aside", func() bool { return len(second.leases.InUse()) == 0 })
}

func TestAddressInUseBySomethingElse(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/29")
	r.wirer.use(endpoint.Use{Prefix: netip.MustParsePrefix("10.64.0.0/30"), By: "route by docker0"})
	eventually(t, "it is noticed", func() bool { return len(r.leases.InUse()) == 1 })
	r.wirer.mu.Lock()
	r.wirer.suddenly = []endpoint.Use{{Prefix: netip.MustParsePrefix("10.64.0.4/32"), By: "address of eth9"}}
	r.wirer.mu.Unlock()
	if ep := r.attach(t, "web"); ep.Addresses[0].String() != "10.64.0.5" {
		t.Errorf("got %s, want the first address that nothing else uses", ep.Addresses[0])
	}
	for addr, by := range map[string]string{"10.64.0.1": "docker0"} {
		q := request("wants-" + addr)
		q.Addresses = []netip.Addr{netip.MustParseAddr(addr)}
		if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrAddressInUse) || !strings.Contains(err.Error(), by) {
			t.Errorf("attach that wants %s: %v, want %q named", addr, err, by)
		}
	}
	r.wirer.use()
	eventually(t, "it is noticed that nothing uses them any more", func() bool { return len(r.leases.InUse()) == 0 })
}

func TestNoAddressWithoutALook(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/29")
	r.wirer.mu.Lock()
	r.wirer.usedByErr = errors.New("netlink is broken")
	r.wirer.mu.Unlock()
	if _, err := r.Attach(t.Context(), request("web")); err == nil || !strings.Contains(err.Error(), "netlink is broken") {
		t.Errorf("Attach = %v", err)
	}
	r.nothingLeft(t)
}

func TestPools(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/29")
	q := request("web")
	q.Pool = "gold"
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrInvalid) || !strings.Contains(err.Error(), "gold") {
		t.Errorf("attach to a pool that is not there: %v", err)
	}
	q.Pool = ipam.DefaultPool
	if _, err := r.Attach(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	q.Pool = "gold"
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrMismatch) {
		t.Errorf("repeated attach with another pool: %v", err)
	}
}

func TestOversizedRequestIsNotEchoed(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	q := request(strings.Repeat("x", 1<<20))
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrInvalid) || len(err.Error()) > 500 {
		t.Errorf("a container ID of 1 MiB: error of %d bytes", len(fmt.Sprint(err)))
	}
	q = request("web")
	q.Netns = "/" + strings.Repeat("x", 1<<20)
	if _, err := r.Attach(t.Context(), q); !errors.Is(err, agent.ErrNetns) || len(err.Error()) > 500 {
		t.Errorf("a namespace path of 1 MiB: error of %d bytes", len(fmt.Sprint(err)))
	}
	r.nothingLeft(t)
}

func TestManyAtOnceNeverShareAnAddress(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/24")
	const n = 200
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[netip.Addr]string)
	for i := range n {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", i)
			ep, err := r.Attach(t.Context(), request(id))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, taken := seen[ep.Addresses[0]]; taken {
				t.Errorf("%s given to %s and %s", ep.Addresses[0], other, id)
			}
			seen[ep.Addresses[0]] = id
		})
	}
	wg.Wait()
	for i := range n {
		wg.Go(func() {
			if _, err := r.Detach(t.Context(), agent.Key{ContainerID: fmt.Sprintf("c%d", i), Interface: "eth0"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.nothingLeft(t)
}
