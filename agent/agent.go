// Package agent holds what a host does for its containers: attach, detach, check, collect, and announcing the
// blocks their addresses come from. It joins ipam, endpoint, routes and bgp, which do not know of one another.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/failover"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/keylock"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// Wirer makes and removes container interfaces; endpoint.Wirer is the real one.
type Wirer interface {
	Wire(ctx context.Context, spec endpoint.Spec) (endpoint.Endpoint, error)
	Offer(ctx context.Context, spec endpoint.Spec) (endpoint.Endpoint, error)
	Retire(ctx context.Context, hostLink string, addrs []netip.Addr) (gone <-chan struct{}, err error)
	Inspect(ctx context.Context, spec endpoint.Spec) (endpoint.Endpoint, error)
	List(ctx context.Context) ([]endpoint.Live, error)
	Others(ctx context.Context, blocks []netip.Prefix, own []netip.Addr) ([]endpoint.Use, error)
	UsedBy(ctx context.Context, addr netip.Addr, block netip.Prefix) (endpoint.Use, error)
	Packets(ctx context.Context) (map[string]uint64, error)
	Lookup(ctx context.Context, addr netip.Addr) (endpoint.Found, error)
	LinkUp(ctx context.Context, hostLink string) error
}

// RouteTable holds the desired routes; routes.Table is the real one.
type RouteTable interface {
	Upsert(ctx context.Context, owner routes.Owner, r routes.Route) error
	Delete(ctx context.Context, owner routes.Owner, prefix netip.Prefix) error
	Set(owner routes.Owner, rs []routes.Route)
	Update(owner routes.Owner, upserts []routes.Route, deletes []netip.Prefix)
	Synced(owner routes.Owner)
	Status(of ...routes.Owner) []routes.Status
	WaitIdle(ctx context.Context) error
}

// Speaker tells about peers and announcements; bgp.Speaker is the real one.
type Speaker interface {
	Announced(ctx context.Context) ([]netip.Prefix, error)
	Peers(ctx context.Context) ([]bgp.PeerStatus, error)
	Sent(ctx context.Context, prefix netip.Prefix) ([]bgp.SentRoute, error)
	Received(ctx context.Context, prefix netip.Prefix) ([]bgp.ReceivedRoute, error)
	Status() bgp.Status
	Reset(ctx context.Context, peer netip.Addr, reason string) error
	Enable(ctx context.Context, peer netip.Addr) error
	Release(peer netip.Addr) error
}

// Firewall confines containers to their own addresses; firewall.Firewall is the real one.
type Firewall interface {
	// Err is nil while it does. It is asked for every attach.
	Err() error
	Dropped() (firewall.Dropped, error)
}

// Names publishes the names of endpoints; dns.Zone is the real one. It is told under the lock of the endpoint's key, and has done it when it
// returns: a name answers before the attach that brought it has returned, and no more before its detach has.
type Names interface {
	Publish(ep Endpoint) // in place of what was published under its key
	Retract(key Key)
}

// Ledger keeps events; history.Ledger is the real one. It never makes the caller wait.
type Ledger interface{ Record(e history.Event) }

type (
	noNames  struct{}
	noLedger struct{}
)

func (noNames) Publish(Endpoint)      {}
func (noNames) Retract(Key)           {}
func (noLedger) Record(history.Event) {}

// Options is what the agent needs to know of its host.
type Options struct {
	Host     string
	Version  string
	Live     func() Live
	MTU      func() int // bytes, of new endpoints that ask for none
	Reloader Reloader   // nil: the configuration is what it is
	// BFD tells of the BFD process; nil: there is none.
	BFD func() BFDStatus
	// Dead tells of routers whose next hops are out of use; nil: none ever are.
	Dead func() []failover.Dead
	// Links tells what is wrong on the links that peers are to be found on; nil: there are none such.
	Links     func() []string
	Firewall  Firewall      // nil: there is none
	Registry  ipam.Registry // of all hosts' claims; nil where blocks are not claimed
	Reconcile time.Duration // between comparisons of leases with live endpoints; 0 takes 30 s
	Notes     Notes         // nil: what is said of endpoints is forgotten when the agent ends
	Names     Names         // nil: endpoints have no names in DNS
	// DNS tells of the server that answers for Names; nil: there is none.
	DNS    func() DNSStatus
	Ledger Ledger // nil: what happens is forgotten
	// ReservationGrace is for how long a reservation that nobody takes up stays; 0 takes 2 min.
	ReservationGrace time.Duration
	Log              *slog.Logger

	DrainFile string      // remembers that the host is drained
	Drain     DrainRecord // as DrainFile has it, see LoadDrain
	// Sessions has the BGP sessions be like this.
	Sessions func(ctx context.Context, s Sessions) error
	// OnDrain is told before the sessions are taken down, and before they come up again; nil: nobody is. It may be told the
	// same again, when a step is repeated or the agent starts on a drained host.
	OnDrain func(ctx context.Context, drained bool, reason string) error
}

// Agent is safe for concurrent use.
type Agent struct {
	opts    Options
	log     *slog.Logger
	leases  *ipam.Allocator
	blocks  *blocks.Keeper
	wirer   Wirer
	table   RouteTable
	speaker Speaker
	started time.Time

	keys     keylock.Locks[Key]
	restored chan struct{} // closed once leases and endpoints are restored
	stopping chan struct{} // closed when Run ends

	mu        sync.Mutex // guards the fields below
	endpoints map[Key]Endpoint
	retiring  map[Key]retirement
	reserved  map[Key]time.Time // until when reservations are not orphans

	// Owned by Run's reconciliation, and by restore before it.
	orphans ipam.Orphans
	aliens  []ipam.InUse // what the last look found in use without a lease

	drain     *drainer
	counters  counters
	finishers sync.WaitGroup // goroutines that release leases once their links are gone
}

// retirement is a detached interface whose link the kernel still has.
type retirement struct {
	netns    string          // empty when unknown: attached by an earlier run
	released <-chan struct{} // closed when the link is gone and the lease released, or the agent ends
}

// New makes an agent; Run brings it to life.
func New(opts Options, leases *ipam.Allocator, keeper *blocks.Keeper, wirer Wirer, table RouteTable, speaker Speaker) *Agent {
	if opts.Live == nil {
		opts.Live = func() Live { return Live{} }
	}
	if opts.Reconcile == 0 {
		opts.Reconcile = 30 * time.Second
	}
	if opts.ReservationGrace == 0 {
		opts.ReservationGrace = reservationGrace
	}
	if opts.Notes == nil {
		opts.Notes = noNotes{}
	}
	if opts.Names == nil {
		opts.Names = noNames{}
	}
	if opts.Ledger == nil {
		opts.Ledger = noLedger{}
	}
	keeper.Hold(opts.Drain.Stage == Drained)
	return &Agent{
		drain: newDrainer(opts.DrainFile, opts.Drain, opts.Log),
		opts:  opts, log: opts.Log, leases: leases, blocks: keeper, wirer: wirer, table: table, speaker: speaker, started: time.Now(),
		restored:  make(chan struct{}),
		stopping:  make(chan struct{}),
		endpoints: make(map[Key]Endpoint),
		retiring:  make(map[Key]retirement),
		reserved:  make(map[Key]time.Time),
	}
}

// Run restores what lived before, then keeps blocks and leases true until ctx ends. Nothing is torn down at
// the end: containers keep their network while the agent is away.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.restore(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("restore endpoints: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.blocks.Run(ctx) })
	g.Go(func() error { return a.reconcileLoop(ctx) })
	g.Go(func() error { return a.drainLoop(ctx) })
	err := g.Wait()
	close(a.stopping)
	a.finishers.Wait()
	return err
}

// Ready is nil while attaches can be served. Peers being down does not make the agent unready: local attaches work,
// and the status says what is wrong.
func (a *Agent) Ready(context.Context) error {
	select {
	case <-a.restored:
		return a.refused()
	default:
		return fmt.Errorf("%w: leases are still being restored", ErrNotReady)
	}
}

// refused says why no new container is attached.
func (a *Agent) refused() error {
	if err := a.drain.refused(); err != nil {
		return err
	}
	if a.opts.Firewall != nil {
		if err := a.opts.Firewall.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
	return nil
}

// awaitReady waits until what an earlier run left is known, as long as the caller does.
func (a *Agent) awaitReady(ctx context.Context) error {
	if err := waitClosed(ctx, a.restored); err != nil {
		return errors.Join(a.Ready(ctx), err)
	}
	return nil
}

// Restored is closed once leases and endpoints of an earlier run are in place.
func (a *Agent) Restored() <-chan struct{} { return a.restored }

// Endpoint returns what is attached under a key.
func (a *Agent) Endpoint(key Key) (Endpoint, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ep, ok := a.endpoints[key]
	return ep, ok
}

// record has an endpoint on record, and under its names. Its key's lock is held, or nothing is served yet.
func (a *Agent) record(ep Endpoint) {
	a.mu.Lock()
	a.endpoints[ep.Key] = ep
	a.mu.Unlock()
	a.opts.Names.Publish(ep)
}

// forget takes back what record did. Its key's lock is held.
func (a *Agent) forget(key Key) {
	a.mu.Lock()
	delete(a.endpoints, key)
	a.mu.Unlock()
	a.opts.Names.Retract(key)
}

// Lookup returns an attachment as it is on record; the kernel is not asked.
func (a *Agent) Lookup(ctx context.Context, key Key) (Endpoint, error) {
	if err := errors.Join(key.Validate(), a.awaitReady(ctx)); err != nil {
		return Endpoint{}, err
	}
	ep, ok := a.Endpoint(key)
	if !ok {
		return Endpoint{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return ep, nil
}

// Endpoints lists what is attached, by key.
func (a *Agent) Endpoints() []Endpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	eps := make([]Endpoint, 0, len(a.endpoints))
	for _, ep := range a.endpoints {
		eps = append(eps, ep)
	}
	slices.SortFunc(eps, func(x, y Endpoint) int { return compareKeys(x.Key, y.Key) })
	return eps
}
