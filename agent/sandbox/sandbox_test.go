package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is an agent, a directory of namespaces and one of holds, all in memory and outliving a pool.
type host struct {
	mu         sync.Mutex
	endpoints  map[agent.Key]agent.Endpoint
	namespaces map[string]bool
	holds      map[string]Hold
	amiss      map[agent.Key]bool // Check fails
	notReady   error
	attachErr  error
	holdErr    error
	detachErr  error
	noteErr    error
	given      byte   // last octet
	others     uint64 // attaches beside sandboxes
	slow       time.Duration
}

func newHost() *host {
	return &host{endpoints: map[agent.Key]agent.Endpoint{}, namespaces: map[string]bool{}, holds: map[string]Hold{}, amiss: map[agent.Key]bool{}}
}

// fakes of the three interfaces: their methods would collide.
type (
	endpoints  struct{ *host }
	namespaces struct{ *host }
	holds      struct{ *host }
)

func (h endpoints) Restored() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func (h endpoints) Ready(context.Context) error { h.mu.Lock(); defer h.mu.Unlock(); return h.notReady }

func (h endpoints) Attach(_ context.Context, r agent.AttachRequest) (agent.Endpoint, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attachErr != nil {
		return agent.Endpoint{}, h.attachErr
	}
	if !h.namespaces[r.ContainerID] {
		return agent.Endpoint{}, errors.New("no such namespace")
	}
	if h.slow > 0 { // as the kernel is
		h.mu.Unlock()
		<-time.After(h.slow)
		h.mu.Lock()
	}
	h.given++
	ep := agent.Endpoint{Key: r.Key, Owner: r.Owner, Netns: r.Netns, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 64, 0, h.given})}}
	h.endpoints[r.Key] = ep
	return ep, nil
}

func (h endpoints) Detach(_ context.Context, k agent.Key) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.detachErr != nil {
		return false, h.detachErr
	}
	_, ok := h.endpoints[k]
	delete(h.endpoints, k)
	return ok, nil
}

func (h endpoints) Check(_ context.Context, r agent.CheckRequest) (agent.Endpoint, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep, ok := h.endpoints[r.Key]
	if !ok || h.amiss[r.Key] || !h.namespaces[r.ContainerID] {
		return agent.Endpoint{}, agent.ErrNotFound
	}
	return ep, nil
}

func (h endpoints) Describe(_ context.Context, k agent.Key, d agent.Description) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep, ok := h.endpoints[k]
	if !ok {
		return agent.ErrNotFound
	}
	if h.noteErr != nil {
		return h.noteErr
	}
	ep.Description = d
	h.endpoints[k] = ep
	return nil
}

func (h endpoints) Endpoint(k agent.Key) (agent.Endpoint, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep, ok := h.endpoints[k]
	return ep, ok
}

func (h endpoints) Counters() agent.Counters {
	h.mu.Lock()
	defer h.mu.Unlock()
	return agent.Counters{Attach: []agent.Verbs{{Result: "ok", Latency: agent.Latency{Counts: [16]uint64{h.others + uint64(h.given)}}}}}
}

func (h endpoints) Endpoints() []agent.Endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.endpoints))
}

func (h namespaces) Path(id string) string { return "/run/hostfabric/sandboxes/" + id }

func (h namespaces) Create(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.namespaces[id] = true
	return nil
}

func (h namespaces) Remove(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.namespaces, id)
	return nil
}

func (h namespaces) List() ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.namespaces)), nil
}

func (h holds) Put(id string, x Hold) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holdErr != nil {
		return h.holdErr
	}
	h.holds[id] = x
	return nil
}

func (h holds) Delete(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.holds, id)
	return nil
}

func (h holds) All() map[string]Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.holds)
}

// counts tells endpoints, namespaces and holds.
func (h *host) counts() [3]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return [3]int{len(h.endpoints), len(h.namespaces), len(h.holds)}
}

// has reports whether there is a namespace.
func (h *host) has(id string) bool { h.mu.Lock(); defer h.mu.Unlock(); return h.namespaces[id] }

// set changes the host.
func (h *host) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// run starts a pool on the host, inside a bubble of synctest.
func (h *host) run(t *testing.T, s Settings) (p *Pool, stop func()) {
	t.Helper()
	p = New(Options{Settings: s, Log: slog.New(slog.DiscardHandler)}, endpoints{h}, namespaces{h}, holds{h})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	settle()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func acquire(t *testing.T, p *Pool, holder string) Sandbox {
	t.Helper()
	s, err := p.Acquire(t.Context(), holder, agent.Description{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pass lets time go by on the bubble's clock.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// settle lets the pool do what it has to.
func settle() { pass(2 * time.Second) }

func TestPoolIsKeptFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{Low: 2, High: 4})
		defer stop()
		if got := p.Status(); got.Ready != 4 {
			t.Fatalf("%d are ready, want 4", got.Ready)
		}
		seen := map[string]bool{}
		for i := range 3 {
			s := acquire(t, p, fmt.Sprint("job", i))
			if seen[s.ID] || s.State != Acquired || !h.has(s.ID) || s.Endpoint.Netns != (namespaces{h}).Path(s.ID) {
				t.Errorf("acquired %+v", s)
			}
			seen[s.ID] = true
		}
		settle()
		if got := p.Status(); got.Ready != 4 || got.Acquired != 3 || got.Warm != 3 || got.Cold != 0 {
			t.Errorf("after three were acquired: %+v", got)
		}
		again := acquire(t, p, "job0")
		if !seen[again.ID] || p.Status().Acquired != 3 {
			t.Errorf("a repeated holder got %+v", again)
		}
	})
}

func TestLedgerIsToldWhoAcquired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{Low: 1, High: 1})
		defer stop()
		ledger := &historytest.Ledger{}
		p.ledger = ledger
		s := acquire(t, p, "job")
		acquire(t, p, "job") // the same again is nothing new
		if got, want := ledger.Story(), "describe "+s.ID+"/eth0 by sandbox [10.64.0.1] (acquired by job)\n"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

func TestEmptyPoolMakesThemOnTheSpot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{})
		defer stop()
		s := acquire(t, p, "job")
		if got := p.Status(); got.Cold != 1 || got.Ready != 0 {
			t.Errorf("%+v", got)
		}
		for want := range 2 {
			found, err := p.Release(t.Context(), "job", "")
			if err != nil || found != (want == 0) {
				t.Errorf("release: %v, %v", found, err)
			}
		}
		if got := h.counts(); got != [3]int{} {
			t.Errorf("left behind: endpoints, namespaces, holds %v", got)
		}
		if next := acquire(t, p, "job"); next.ID == s.ID {
			t.Error("a sandbox was used twice")
		}
	})
}

func TestSandboxesOutliveTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		first, stop := h.run(t, Settings{Low: 3, High: 3})
		d := agent.Description{Name: "web", Labels: map[string]string{"app": "shop"}}
		held, err := first.Acquire(t.Context(), "job", d)
		if err != nil || !reflect.DeepEqual(held.Endpoint.Description, d) {
			t.Fatalf("%+v, %v", held, err)
		}
		d.Name, d.Aliases, d.Labels = "", []string{"www"}, nil
		if renamed, err := first.Acquire(t.Context(), "job", d); err != nil || !reflect.DeepEqual(renamed.Endpoint.Description, d) {
			t.Errorf("acquired again with an alias only: %+v, %v", renamed, err)
		}
		settle()
		ready := first.List()[0]
		spoilt := first.List()[1]
		stop()
		h.set(func() {
			h.amiss[spoilt.Endpoint.Key] = true
			h.namespaces["sandbox-0123456789abcdef"] = true // of a crash between two steps
			h.holds["sandbox-fedcba9876543210"] = Hold{Holder: "gone"}
		})

		second, stop := h.run(t, Settings{Low: 2, High: 3})
		defer stop()
		again := acquire(t, second, "job")
		if again.ID != held.ID || !again.Since.Equal(held.Since) || !slices.Equal(again.Endpoint.Aliases, d.Aliases) {
			t.Errorf("the holder has %+v, had %+v", again, held)
		}
		ids := func() (all []string) {
			for _, s := range second.List() {
				all = append(all, s.ID)
			}
			return all
		}
		if got := ids(); !slices.Contains(got, ready.ID) || slices.Contains(got, spoilt.ID) {
			t.Errorf("there are %v; want %s, and not %s", got, ready.ID, spoilt.ID)
		}
		if got := h.counts(); got[0] != got[1] || got[2] != 1 {
			t.Errorf("endpoints, namespaces, holds: %v", got)
		}
		if s := second.List()[0]; s.State != Ready || second.Status().Acquired != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestRefillLeavesTimeToOthers makes 20 sandboxes of 1 ms each: with and without attaches of others meanwhile.
func TestRefillLeavesTimeToOthers(t *testing.T) {
	for others, want := range map[bool]time.Duration{false: 50 * time.Millisecond, true: 250 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost()
			p, stop := h.run(t, Settings{})
			defer stop()
			h.set(func() { h.slow = time.Millisecond })
			ctx, cancel := context.WithCancel(t.Context())
			var attaching sync.WaitGroup
			defer attaching.Wait()
			defer cancel()
			if others {
				attaching.Go(func() {
					for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
						h.set(func() { h.others++ })
					}
				})
			}
			began := time.Now()
			p.Set(Settings{Low: 20, High: 20})
			for p.Status().Ready < 20 {
				<-time.After(time.Millisecond)
			}
			if took := time.Since(began); took > want || others && took < want/2 {
				t.Errorf("with others %v it took %v, want up to %v", others, took, want)
			}
		})
	}
}

func TestSettingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{Low: 5, High: 5})
		defer stop()
		p.Set(Settings{Low: 1, High: 2})
		settle()
		if got := p.Status(); got.Ready != 2 || h.counts() != [3]int{2, 2, 0} {
			t.Errorf("after the marks were lowered: %+v, %v", got, h.counts())
		}
		p.Set(Settings{Low: 1, High: 2, Pool: "gold"})
		settle()
		for _, s := range p.List() {
			if s.Endpoint.Owner != "sandbox/gold/" {
				t.Errorf("of another pool: %+v", s)
			}
		}
		if got := h.counts(); got != [3]int{2, 2, 0} {
			t.Errorf("endpoints, namespaces, holds: %v", got)
		}
	})
}

func TestWhatIsNotReadyAnyMoreIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{Low: 2, High: 2})
		defer stop()
		detached, amiss := p.List()[0], p.List()[1]
		h.set(func() { delete(h.endpoints, detached.Endpoint.Key) })
		s := acquire(t, p, "job")
		if s.ID == detached.ID {
			t.Error("a sandbox without a network was given out")
		}
		if s.ID == amiss.ID {
			settle()
			amiss = p.List()[0]
		}
		h.set(func() { h.amiss[amiss.Endpoint.Key] = true; delete(h.endpoints, s.Endpoint.Key) })
		pass(time.Minute)
		if got := p.Status(); got.Ready != 2 || got.Acquired != 0 {
			t.Errorf("%+v; want two ready, and the holder's released as its link was gone", got)
		}
		if got := h.counts(); got != [3]int{2, 2, 0} {
			t.Errorf("endpoints, namespaces, holds: %v", got)
		}
		other := acquire(t, p, "other")
		h.set(func() { delete(h.endpoints, other.Endpoint.Key) })
		if again := acquire(t, p, "other"); !h.has(again.ID) {
			t.Errorf("a holder whose sandbox was gone got %+v", again)
		}
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		h.attachErr = agent.ErrExhausted
		p, stop := h.run(t, Settings{Low: 2, High: 2})
		defer stop()
		if got := p.Status(); got.Ready != 0 || !errors.Is(got.Err, agent.ErrExhausted) {
			t.Errorf("with a full block: %+v", got)
		}
		if _, err := p.Acquire(t.Context(), "job", agent.Description{}); !errors.Is(err, agent.ErrExhausted) {
			t.Errorf("acquire with a full block: %v", err)
		}
		if got := h.counts(); got != [3]int{} {
			t.Errorf("left behind: endpoints, namespaces, holds %v", got)
		}
		h.set(func() { h.attachErr = nil })
		settle()
		if got := p.Status(); got.Ready != 2 || got.Err != nil {
			t.Errorf("once there was room: %+v", got)
		}

		h.set(func() { h.holdErr = errors.New("disk full") })
		if _, err := p.Acquire(t.Context(), "job", agent.Description{}); !errors.Is(err, agent.ErrStorage) {
			t.Errorf("acquire with a full disk: %v", err)
		}
		h.set(func() { h.holdErr = nil; h.noteErr = errors.New("disk full") })
		if _, err := p.Acquire(t.Context(), "job", agent.Description{Name: "web"}); err == nil || p.Status().Acquired != 0 {
			t.Errorf("acquire whose name cannot be kept: %v, %+v", err, p.Status())
		}
		h.set(func() { h.noteErr = nil; h.notReady = agent.ErrDraining })
		if _, err := p.Acquire(t.Context(), "job", agent.Description{}); !errors.Is(err, agent.ErrDraining) {
			t.Errorf("acquire on a drained host: %v", err)
		}
		h.set(func() { h.notReady = nil })
		s := acquire(t, p, "job")
		h.set(func() { h.detachErr = errors.New("kernel says no") })
		if _, err := p.Release(t.Context(), "job", ""); err == nil {
			t.Error("a release that failed was called a success")
		}
		if again := acquire(t, p, "job"); again.ID != s.ID {
			t.Error("a failed release took the sandbox from its holder")
		}
		h.set(func() { h.detachErr = nil })
		if found, err := p.Release(t.Context(), "", s.ID); !found || err != nil {
			t.Errorf("release by ID: %v, %v", found, err)
		}
		settle()
		if found, err := p.Release(t.Context(), "", p.List()[0].ID); !found || err != nil {
			t.Errorf("release of a ready one: %v, %v", found, err)
		}
		settle()
		if got := p.Status(); got.Ready != 2 || got.Acquired != 0 || h.counts() != [3]int{2, 2, 0} {
			t.Errorf("in the end: %+v, %v", got, h.counts())
		}
	})
}

func TestBadRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{})
		defer stop()
		for _, holder := range []string{"", "a b", "a/b", "../x", string(make([]byte, 1000))} {
			if _, err := p.Acquire(t.Context(), holder, agent.Description{}); !errors.Is(err, agent.ErrInvalid) {
				t.Errorf("holder %.20q: %v", holder, err)
			}
		}
		if _, err := p.Acquire(t.Context(), "job", agent.Description{Name: "a b"}); !errors.Is(err, agent.ErrInvalid) {
			t.Errorf("bad name: %v", err)
		}
		for _, r := range [][2]string{{"", ""}, {"job", "sandbox-0123456789abcdef"}} {
			if _, err := p.Release(t.Context(), r[0], r[1]); !errors.Is(err, agent.ErrInvalid) {
				t.Errorf("release of %q: %v", r, err)
			}
		}
		if got := h.counts(); got != [3]int{} {
			t.Errorf("endpoints, namespaces, holds: %v", got)
		}
	})
}

// TestListWhileRestoring has somebody list, and scrape, while an agent that was just started sorts out what it finds.
func TestListWhileRestoring(t *testing.T) {
	h := newHost()
	for i := range 100 {
		id := fmt.Sprintf("sandbox-%016x", i)
		h.namespaces[id] = true
		h.endpoints[key(id)] = agent.Endpoint{Key: key(id), Owner: agent.OwnerSandbox}
		if i%2 == 0 {
			h.holds[id] = Hold{Holder: fmt.Sprint("job", i)}
		}
	}
	p := New(Options{Settings: Settings{Low: 50, High: 50}, Log: slog.New(slog.DiscardHandler)}, endpoints{h}, namespaces{h}, holds{h})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		for done := false; !done; {
			select {
			case <-p.restored:
				done = true
			default:
				p.List()
				p.Status()
			}
		}
	})
	<-p.restored
	if got := p.Status(); got.Ready != 50 || got.Acquired != 50 {
		t.Errorf("restored %+v", got)
	}
	cancel()
	all.Wait()
}

// TestOldSandboxIsReleasedAlone: by the time that one is found to be gone, its holder may have another.
func TestOldSandboxIsReleasedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		p, stop := h.run(t, Settings{})
		defer stop()
		old := acquire(t, p, "job")
		h.set(func() { delete(h.endpoints, old.Endpoint.Key) })
		now := acquire(t, p, "job")
		if found, err := p.release(t.Context(), "job", old.ID); found || err != nil {
			t.Errorf("release of the old one: %v, %v", found, err)
		}
		if again := acquire(t, p, "job"); again.ID != now.ID {
			t.Errorf("the holder has %s, had %s", again.ID, now.ID)
		}
	})
}

func TestManyAtOnceGetEachTheirOwn(t *testing.T) {
	h := newHost()
	p := New(Options{Settings: Settings{Low: 5, High: 10}, Log: slog.New(slog.DiscardHandler)}, endpoints{h}, namespaces{h}, holds{h})
	ctx, cancel := context.WithCancel(t.Context())
	var running, callers sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	users := map[string]string{}
	for i := range 200 {
		callers.Go(func() {
			holder := fmt.Sprint("job", i%50)
			s, err := p.Acquire(ctx, holder, agent.Description{})
			mu.Lock()
			defer mu.Unlock()
			if other := users[s.ID]; err != nil || other != "" && other != holder {
				t.Errorf("%s is %s's and %s's: %v", s.ID, holder, other, err)
			}
			users[s.ID] = holder
		})
	}
	callers.Wait()
	if len(users) != 50 {
		t.Errorf("50 holders have %d sandboxes", len(users))
	}
	cancel()
	running.Wait()
}
