// Package blocks keeps the address blocks of a host: from where they come, to the lease manager that hands their
// addresses out, the kernel that discards what nobody has, and the ToRs that are told of them. It gets more blocks when
// addresses run short, and gives back those that are not needed.
package blocks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// Table holds the discard routes; routes.Table is the real one.
type Table interface {
	Upsert(ctx context.Context, owner routes.Owner, r routes.Route) error
	Delete(ctx context.Context, owner routes.Owner, prefix netip.Prefix) error
	Set(owner routes.Owner, rs []routes.Route)
	Synced(owner routes.Owner)
	Status(of ...routes.Owner) []routes.Status
	WaitIdle(ctx context.Context) error
}

// Speaker announces prefixes; bgp.Speaker is the real one.
type Speaker interface {
	Announce(ctx context.Context, set []bgp.Announcement) error
	Status() bgp.Status
}

// Leases hands addresses out; ipam.Allocator is the real one.
type Leases interface {
	SetBlocks(blocks []ipam.Block) error
	Usage() []ipam.Usage
	LeasedIn(prefix netip.Prefix) bool
}

// Ledger keeps events; history.Ledger is the real one. It never makes the caller wait.
type Ledger interface{ Record(e history.Event) }

// Budget is how many prefixes a host may announce a family: hosts x budget must fit the ToR's table.
type Budget struct{ IPv4, IPv6 int }

// Options of a Keeper.
type Options struct {
	Settings
	Source      ipam.Source // where it is an ipam.Grower, blocks come and go with need
	Record      string      // file that remembers the blocks, see ipam.LoadRecord
	HostAddress bool        // the first address of the first block of each family is the host's own
	// Gate says why the blocks must not be announced now, though their discard routes stand; nil while they may.
	Gate func() error
	// Occupant names something that has addresses of a block now, leased or not: it is asked before the block is withdrawn.
	Occupant func(ctx context.Context, block netip.Prefix) (string, error)
	// Follow is told the blocks and the host's own addresses whenever they change, before new ones are announced.
	Follow func(ctx context.Context, own []netip.Prefix, host []netip.Addr) error
	Ledger Ledger // nil: what becomes of blocks is forgotten
	Log    *slog.Logger
}

// Keeper is safe for concurrent use. Load comes first, then Run.
type Keeper struct {
	opts    Options
	log     *slog.Logger
	grower  ipam.Grower // nil: the blocks are as they are
	leases  Leases
	table   Table
	speaker Speaker

	wake  chan struct{} // capacity 1
	calls chan func()   // to be done by Run, between two steps
	done  chan func()   // what operations on the source ended with, to be applied by Run
	ended chan struct{} // closed when Run has ended

	// Owned by Run, and by Load and Restore before it.
	told      []netip.Prefix               // what the speaker announces, as far as is known
	telling   bool                         // it was told by this run, and said yes
	quiet     []netip.Prefix               // of told, what was announced to the ToRs alone
	holding   bool                         // nothing is to be announced in this step
	gateway   steadiness                   // of the gate
	discarded map[netip.Prefix]*steadiness // of discards
	discards  []netip.Prefix               // discard routes as last set
	followed  following
	saved     ipam.Record
	handedOut []ipam.Block          // what the lease manager was last given
	spares    map[section]time.Time // since when a section could do with fewer blocks
	asking    bool                  // an operation on the source is under way
	growing   bool                  // it is a growth
	stale     bool                  // the source may have changed
	conflicts []string              // what the source says against this host's claims
	refusals  map[string]*refusal   // by operation
	chronicle chronicle

	mu       sync.Mutex // guards what follows; Run alone changes it
	blocks   []owned    // oldest first
	host     []netip.Addr
	handing  bool // blocks are open, and the lease manager is about to have them
	retired  bool // an operator wants all blocks back: none is claimed any more
	gate     error
	problems []string
	opened   uint64 // counts changes that a waiting attach may be helped by
	waiters  map[*waiter]struct{}
	failed   map[string]*refusal // why a pool cannot grow, by its name

	reasons map[netip.Prefix]string // see WhyWithdrawn

	hold     bool          // nothing is to be announced
	heldNow  bool          // as the speaker was told last
	holdTold chan struct{} // closed when heldNow changes
}

// New makes a keeper that does nothing before Load.
func New(opts Options, leases Leases, table Table, speaker Speaker) *Keeper {
	k := &Keeper{
		opts: opts, log: opts.Log, leases: leases, table: table, speaker: speaker,
		wake: make(chan struct{}, 1), calls: make(chan func()), done: make(chan func()), ended: make(chan struct{}),
		spares: make(map[section]time.Time), refusals: make(map[string]*refusal),
		gate: errors.New("starting"), waiters: make(map[*waiter]struct{}), failed: make(map[string]*refusal),
		reasons: make(map[netip.Prefix]string), holdTold: make(chan struct{}), gateway: steadiness{Health: opts.Health}, discarded: make(map[netip.Prefix]*steadiness),
	}
	k.grower, _ = opts.Source.(ipam.Grower)
	k.chronicle.ledger = opts.Ledger
	return k
}

// Load finds the blocks that this host has, by its record and by the source, and has their addresses handed out. A source
// that cannot be reached is asked again later: the record is enough to go on.
func (k *Keeper) Load(ctx context.Context) error {
	record, err := ipam.LoadRecord(k.opts.Record)
	if err != nil {
		return err
	}
	k.saved = record
	k.chronicle.remember(record)
	k.told = ipam.Cover(usedOf(record))
	k.discards = union(k.told, ipam.Cover(prefixesIn(record))) // what was about to be opened may be announced already
	have, err := k.opts.Source.Blocks(ctx)
	if err != nil {
		if k.grower == nil || ctx.Err() != nil {
			return fmt.Errorf("blocks from %s: %w", k.opts.Source.Name(), err)
		}
		k.refuse(opAsk, err)
	}
	k.stale = k.grower != nil // for what Load does not ask
	var configured []ipam.Block
	if k.grower != nil {
		configured = k.opts.Configured
	}
	k.setBlocks(start{
		record: record, have: have, heard: err == nil, configured: configured, source: k.opts.Source.Name(),
		grows: k.grower != nil, leasedIn: k.leases.LeasedIn,
	}.blocks())
	if k.retired = record.Retired && len(k.blocks) > 0; k.retired {
		k.release(func(b owned) bool { return !b.released })
	}
	if err == nil && k.grower != nil {
		k.reclaim(ctx)
	}
	if err := k.save(); err != nil {
		k.log.Error("blocks not recorded; those that are not known from before are not used until they are", "err", err)
		used := usedOf(record)
		k.change(func(b owned) bool { return b.stage == open && !contains(used, b.Prefix) }, func(b *owned) { b.stage = opening })
	}
	k.setHost()
	k.followed = following{own: ownSpace(k.blocks), host: k.host}
	return k.handOut()
}

// reclaim claims what this host has by its records alone, before it uses it if that can be: another host may have it by now.
func (k *Keeper) reclaim(ctx context.Context) {
	for _, b := range slices.Clone(k.blocks) {
		if b.unclaimed || b.stage == lost {
			k.claim(b)(ctx)()
		}
	}
}

// Restore has the kernel discard what nobody has in the blocks that this host has had, before anything else is touched.
func (k *Keeper) Restore(ctx context.Context) error {
	k.discards = union(k.discards, target(k.blocks, nobody))
	rs := make([]routes.Route, len(k.discards))
	for i, p := range k.discards {
		rs[i] = discard(p)
	}
	k.table.Set(routes.Blocks, rs)
	k.table.Synced(routes.Blocks)
	if err := k.table.WaitIdle(ctx); err != nil {
		return fmt.Errorf("write discard routes: %w", err)
	}
	return nil
}

// Own are the blocks of this host, and its own addresses in them.
func (k *Keeper) Own() (own []netip.Prefix, host []netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return ownSpace(k.blocks), k.host
}

// How often everything is looked at without a hint. Where blocks grow, that is before addresses run short.
const (
	slowTick = time.Second
	fastTick = 250 * time.Millisecond
)

// Run keeps everything equal to the blocks until ctx ends. Nothing is withdrawn at the end.
func (k *Keeper) Run(ctx context.Context) error {
	defer close(k.ended)
	var working sync.WaitGroup
	defer working.Wait()
	hints, err := k.opts.Source.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the blocks of %s: %w", k.opts.Source.Name(), err)
	}
	tick := slowTick
	if k.grower != nil {
		tick = fastTick
	}
	t := time.NewTicker(tick)
	defer t.Stop()
	for ctx.Err() == nil {
		k.step(ctx, &working)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-k.wake:
		case call := <-k.calls:
			call()
		case apply := <-k.done:
			k.asking, k.growing = false, false
			apply()
		case _, ok := <-hints:
			if !ok {
				hints = nil // it ends with ctx
				continue
			}
			k.stale = true
			k.forgive()
		}
	}
	return nil
}

// Kick has the keeper look at once: something that it depends on has changed.
func (k *Keeper) Kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *Keeper) step(ctx context.Context, working *sync.WaitGroup) {
	uses := tally(k.leases.Usage())
	k.need(uses)
	problems := k.withdraw(ctx, uses)
	k.setHost()
	// Closing a block waits for nothing: whatever else fails, no more is leased from it.
	if err := k.handOut(); err != nil {
		problems = append(problems, fmt.Sprintf("blocks not taken by the lease manager: %v", err))
	}
	soon, gate := k.lookAtGate()
	problems = append(problems, soon...)
	k.holding = k.wantsHold()
	k.work(ctx, uses, working)
	problems = append(problems, k.move(ctx, gate)...)
	k.publish(gate, problems)
	k.chronicle.follow(k.blocks)
}

// setBlocks replaces the blocks; only Run and Load call it.
func (k *Keeper) setBlocks(bs []owned) {
	k.mu.Lock()
	k.blocks = bs
	k.mu.Unlock()
}

// change applies f to the blocks it picks.
func (k *Keeper) change(pick func(owned) bool, f func(*owned)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.blocks {
		if pick(k.blocks[i]) {
			f(&k.blocks[i])
		}
	}
}

// drop takes blocks out.
func (k *Keeper) drop(pick func(owned) bool) {
	var rest []owned
	for _, b := range k.blocks {
		if !pick(b) {
			rest = append(rest, b)
		}
	}
	k.setBlocks(rest)
}

// setHost chooses the host's own addresses: the first of the oldest block of each family, for as long as that block stays.
func (k *Keeper) setHost() {
	if !k.opts.HostAddress {
		return
	}
	host := hostAddresses(k.blocks, k.host, k.leases.LeasedIn)
	k.mu.Lock()
	k.host = host
	k.mu.Unlock()
}
