// Package sandbox keeps network namespaces ready that were attached to the fabric before anybody asked for them. To acquire one is
// to be told of it; each is used once.
package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/keylock"
	"github.com/hostfabric/hostfabric/ipam"
)

// Endpoints is what a pool needs of the agent.
type Endpoints interface {
	// Restored is closed once the endpoints of an earlier run are known.
	Restored() <-chan struct{}
	// Ready is nil while containers can be attached.
	Ready(context.Context) error
	Attach(context.Context, agent.AttachRequest) (agent.Endpoint, error)
	Detach(context.Context, agent.Key) (found bool, err error)
	Check(context.Context, agent.CheckRequest) (agent.Endpoint, error)
	Describe(context.Context, agent.Key, agent.Description) error
	Endpoint(agent.Key) (agent.Endpoint, bool)
	Endpoints() []agent.Endpoint
	// Counters tell whether others attach, too.
	Counters() agent.Counters
}

// Namespaces makes and removes network namespaces that outlive the process; Mounts is the real one.
type Namespaces interface {
	// Path is where a namespace is, or would be.
	Path(id string) string
	// Create makes a namespace with its loopback up. A taken ID is an error.
	Create(id string) error
	// Remove takes a namespace away; one that is not there is success.
	Remove(id string) error
	// List returns the IDs of all there are.
	List() ([]string, error)
}

// Hold says that a sandbox is in use, and whose it is.
type Hold struct {
	Holder string    `json:"holder"`
	Since  time.Time `json:"since"`
}

// Holds keeps Hold records for the next run, by ID; notes.Store is the real one.
type Holds interface {
	Put(id string, h Hold) error
	Delete(id string) error
	All() map[string]Hold
}

// Settings may change while a pool runs.
type Settings struct {
	Low, High int         // when fewer than Low are ready, more are made until High are; 0 and 0: none ahead of time
	Pool      string      // of the addresses; empty: the default one
	Family    ipam.Family // of the addresses
}

// Options of a Pool.
type Options struct {
	Settings
	Recheck time.Duration // between looks at whether those that are ready still are; 0 takes 30 s
	Ledger  agent.Ledger  // nil: who acquired what is forgotten
	Log     *slog.Logger
}

// State is what a sandbox is there for.
type State string

// The states there are.
const (
	Ready    State = "ready"    // wired, and nobody's
	Acquired State = "acquired" // its holder's, until it is released
)

// Sandbox is a wired network namespace.
type Sandbox struct {
	ID       string
	State    State
	Holder   string         // empty while it is ready
	Since    time.Time      // of the state
	Endpoint agent.Endpoint // its Netns is the path for the runtime
}

// Counters tell how a pool has served.
type Counters struct {
	Warm, Cold, Failed uint64 // acquired from what was ready, made on the spot, or not at all
}

// Status is a pool as it is.
type Status struct {
	Ready, Acquired int
	Low, High       int
	Counters
	Err error // why the last attempt to make one ahead of time failed; nil if it did not
}

// Pool is safe for concurrent use.
type Pool struct {
	endpoints  Endpoints
	namespaces Namespaces
	holds      Holds
	ledger     agent.Ledger
	log        *slog.Logger
	recheck    time.Duration

	users    keylock.Locks[string] // by holder
	restored chan struct{}         // closed when those of an earlier run are known
	kick     chan struct{}         // size 1: look whether more are wanted

	mu       sync.Mutex // guards all below
	settings Settings
	ready    []Sandbox          // the longest ready first
	acquired map[string]Sandbox // by holder
	counters Counters
	fillErr  error
}

// New makes a pool; Run brings it to life.
func New(opts Options, endpoints Endpoints, namespaces Namespaces, holds Holds) *Pool {
	return &Pool{
		endpoints: endpoints, namespaces: namespaces, holds: holds, ledger: opts.Ledger, log: opts.Log, recheck: cmp.Or(opts.Recheck, 30*time.Second),
		restored: make(chan struct{}), kick: make(chan struct{}, 1),
		settings: opts.Settings, acquired: make(map[string]Sandbox),
	}
}

// owner marks the endpoints that are made by these settings.
func (s Settings) owner() string {
	if s.Pool == "" && s.Family == ipam.AnyFamily {
		return agent.OwnerSandbox
	}
	return fmt.Sprintf("%s/%s/%s", agent.OwnerSandbox, s.Pool, s.Family)
}

// Set changes the settings. Those that were made ready by others make way for new ones.
func (p *Pool) Set(s Settings) {
	p.mu.Lock()
	before := p.settings
	p.settings = s
	p.mu.Unlock()
	if before != s {
		p.wake()
	}
}

func (p *Pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Acquire gives the holder a sandbox of its own: one that is ready, or where none is, one made now. A repeated holder gets the one
// that it has, and d, if it says anything, takes the place of what was said of it.
func (p *Pool) Acquire(ctx context.Context, holder string, d agent.Description) (_ Sandbox, err error) {
	if err := (agent.Key{ContainerID: holder, Interface: Interface}).Validate(); err != nil {
		return Sandbox{}, fmt.Errorf("holder: %w", err)
	}
	if err := d.Validate(); err != nil {
		return Sandbox{}, err
	}
	if err := p.awaitRestored(ctx); err != nil {
		return Sandbox{}, err
	}
	unlock, err := p.users.Lock(ctx, holder)
	if err != nil {
		return Sandbox{}, fmt.Errorf("acquire for %s: waiting for another request: %w", holder, err)
	}
	defer unlock()
	if s, ok := p.of(holder); ok {
		if p.attached(s) {
			return p.describe(ctx, s, d)
		}
		if err := p.bury(ctx, s); err != nil {
			return Sandbox{}, fmt.Errorf("acquire for %s: its old one is no more: %w", holder, err)
		}
	}
	if err := p.endpoints.Ready(ctx); err != nil {
		return Sandbox{}, fmt.Errorf("acquire for %s: %w", holder, err)
	}
	s, warm := p.take()
	defer p.wake()
	if !warm {
		if s, err = p.make(ctx); err != nil {
			p.count(func(c *Counters) { c.Failed++ })
			return Sandbox{}, fmt.Errorf("acquire for %s: %w", holder, err)
		}
	}
	s.State, s.Holder, s.Since = Acquired, holder, time.Now()
	if err := p.holds.Put(s.ID, Hold{holder, s.Since}); err != nil {
		p.count(func(c *Counters) { c.Failed++ })
		// What was written of the hold is not known: it is nobody's, and used up.
		return Sandbox{}, errors.Join(fmt.Errorf("acquire for %s: %w: %w", holder, agent.ErrStorage, err), p.discard(ctx, s))
	}
	p.mu.Lock()
	p.acquired[holder] = s
	if warm {
		p.counters.Warm++
	} else {
		p.counters.Cold++
	}
	p.mu.Unlock()
	p.tell(s)
	described, err := p.describe(ctx, s, d)
	if err != nil { // the caller was told of nothing and may not come again
		return Sandbox{}, errors.Join(fmt.Errorf("acquire for %s: %w", holder, err), p.bury(ctx, s))
	}
	return described, nil
}

// describe sets what is said of a sandbox, if anything is.
func (p *Pool) describe(ctx context.Context, s Sandbox, d agent.Description) (Sandbox, error) {
	if d.Empty() {
		return s, nil
	}
	if err := p.endpoints.Describe(ctx, s.Endpoint.Key, d); err != nil {
		return Sandbox{}, err
	}
	s.Endpoint.Description = d
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acquired[s.Holder] = s
	return s, nil
}

// tell has the ledger know who has a sandbox from now on. That it was attached is known, and that it is detached will be.
func (p *Pool) tell(s Sandbox) {
	if p.ledger == nil {
		return
	}
	ep := s.Endpoint
	p.ledger.Record(history.Event{
		Time: s.Since, Kind: history.Describe, Container: ep.ContainerID, Interface: ep.Interface, Owner: ep.Owner, Addresses: ep.Addresses,
		Name: ep.Name, Aliases: ep.Aliases, Labels: ep.Labels, Detail: "acquired by " + s.Holder,
	})
}

// take gives out the one that has been ready for longest.
func (p *Pool) take() (Sandbox, bool) {
	for {
		p.mu.Lock()
		if len(p.ready) == 0 {
			p.mu.Unlock()
			return Sandbox{}, false
		}
		s := p.ready[0]
		p.ready = slices.Delete(p.ready, 0, 1)
		p.mu.Unlock()
		if p.attached(s) {
			return s, true
		}
		if err := p.namespaces.Remove(s.ID); err != nil {
			p.log.Error("a sandbox that somebody detached is not removed; it will be when the agent starts anew", "sandbox", s.ID, "err", err)
		}
	}
}

// attached reports whether the sandbox is still on the fabric: its link may have been removed, or its container detached, by anybody.
func (p *Pool) attached(s Sandbox) bool {
	_, ok := p.endpoints.Endpoint(s.Endpoint.Key)
	return ok
}

// bury forgets an acquired sandbox, for who holds the lock of its holder.
func (p *Pool) bury(ctx context.Context, s Sandbox) error {
	if err := p.discard(ctx, s); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.acquired, s.Holder)
	return nil
}

// Release takes a sandbox off the fabric and removes its namespace, named by its holder or, if holder is empty, by its ID. It
// reports false if there is none: releasing again is success.
func (p *Pool) Release(ctx context.Context, holder, id string) (found bool, err error) {
	if (holder == "") == (id == "") {
		return false, fmt.Errorf("%w: name a sandbox by its holder or by its ID, and not by both", agent.ErrInvalid)
	}
	if err := p.awaitRestored(ctx); err != nil {
		return false, err
	}
	if holder == "" {
		s, ok := p.find(id)
		if !ok {
			return false, nil
		}
		if s.State == Ready {
			return p.releaseReady(ctx, id)
		}
		holder = s.Holder
	}
	return p.release(ctx, holder, id)
}

// release takes the holder's sandbox away, with an ID only if it is still that one.
func (p *Pool) release(ctx context.Context, holder, id string) (found bool, err error) {
	unlock, err := p.users.Lock(ctx, holder)
	if err != nil {
		return false, fmt.Errorf("release of %s: waiting for another request: %w", holder, err)
	}
	defer unlock()
	s, ok := p.of(holder)
	if !ok || id != "" && s.ID != id {
		return false, nil
	}
	if err := p.bury(ctx, s); err != nil {
		return true, fmt.Errorf("release of %s: %w", holder, err)
	}
	return true, nil
}

// releaseReady takes one out of the pool that nobody has.
func (p *Pool) releaseReady(ctx context.Context, id string) (found bool, err error) {
	p.mu.Lock()
	i := slices.IndexFunc(p.ready, func(s Sandbox) bool { return s.ID == id })
	if i < 0 {
		p.mu.Unlock()
		return false, nil
	}
	s := p.ready[i]
	p.ready = slices.Delete(p.ready, i, i+1)
	p.mu.Unlock()
	p.wake()
	return true, p.discard(ctx, s)
}

// List returns all sandboxes, those that are ready first.
func (p *Pool) List() []Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Clone(p.ready)
	for _, s := range p.acquired {
		all = append(all, s)
	}
	slices.SortFunc(all[len(p.ready):], func(a, b Sandbox) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return all
}

// Status tells how the pool is.
func (p *Pool) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Status{
		Ready: len(p.ready), Acquired: len(p.acquired), Low: p.settings.Low, High: p.settings.High, Counters: p.counters, Err: p.fillErr,
	}
}

func (p *Pool) of(holder string) (Sandbox, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.acquired[holder]
	return s, ok
}

func (p *Pool) find(id string) (Sandbox, bool) {
	all := p.List()
	i := slices.IndexFunc(all, func(s Sandbox) bool { return s.ID == id })
	if i < 0 {
		return Sandbox{}, false
	}
	return all[i], true
}

func (p *Pool) count(add func(*Counters)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add(&p.counters)
}

func (p *Pool) awaitRestored(ctx context.Context) error {
	select {
	case <-p.restored:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: sandboxes are still being restored: %w", agent.ErrNotReady, ctx.Err())
	}
}
