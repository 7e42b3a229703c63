package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// manyCallers is how many ask at the same time in the rows named ".64".
const manyCallers = 64

// contender is one side of a race in allocating and releasing an address.
type contender struct {
	name    string
	callers int
	turn    time.Duration // of each round
	// cycle is one allocation and its release by one of the callers, who are numbered from 0.
	cycle func(ctx context.Context, caller int) error
	rates []float64 // cycles a second, by round
}

// ipamDurable counts the durable allocations and releases of package ipam in a second, at one caller and at 64, beside two bare
// writes, the host-local plugin, and an etcd transaction for each address. They take turns, so that a machine whose speed
// drifts favours none.
func ipamDurable(ctx context.Context, o Options) (_ []Result, err error) {
	if o.Rounds < 1 {
		return nil, fmt.Errorf("%d rounds: want at least 1", o.Rounds)
	}
	dir, err := os.MkdirTemp("", "hfbench-") // short: etcd's socket lives below it
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var r ipamRace
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.enter(ctx, o, dir); err != nil {
		return nil, err
	}
	for i := range o.Rounds {
		for _, c := range r.all() {
			if err := c.run(ctx); err != nil {
				return nil, fmt.Errorf("%s, %d callers: %w", c.name, c.callers, err)
			}
		}
		o.step("rounds of durable leases")(i+1, o.Rounds)
	}
	where, err := machine(dir)
	if err != nil {
		return nil, err
	}
	return r.results(fmt.Sprintf("median of %d interleaved rounds; %s", o.Rounds, where)), nil
}

// ipamRace is everybody who takes part.
type ipamRace struct {
	floor                    *contender
	ours, oursMany           *contender
	hostLocal, hostLocalMany *contender
	etcd, etcdMany           *contender
	closers                  []func() error // in reverse
}

func (r *ipamRace) all() []*contender {
	return []*contender{r.floor, r.ours, r.oursMany, r.hostLocal, r.hostLocalMany, r.etcd, r.etcdMany}
}

func (r *ipamRace) close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	return errors.Join(errs...)
}

// The turns are long enough for some dozens of cycles of the slowest.
const (
	quickTurn = 300 * time.Millisecond
	slowTurn  = 700 * time.Millisecond
)

func (r *ipamRace) enter(ctx context.Context, o Options, dir string) error {
	floor, err := r.openFloor(filepath.Join(dir, "floor"))
	if err != nil {
		return err
	}
	r.floor = &contender{name: "pwrites", callers: 1, turn: quickTurn, cycle: floor}
	allocator, err := r.openAllocator(filepath.Join(dir, "leases"))
	if err != nil {
		return err
	}
	hostLocal := hostLocalCycle(filepath.Join(o.Plugins, "host-local"), filepath.Join(dir, "host-local"))
	transaction, err := r.openEtcd(ctx, filepath.Join(dir, "etcd"))
	if err != nil {
		return err
	}
	pair := func(name string, turn time.Duration, cycle func(context.Context, int) error) (one, many *contender) {
		return &contender{name: name, callers: 1, turn: turn, cycle: cycle}, &contender{name: name, callers: manyCallers, turn: turn, cycle: cycle}
	}
	r.ours, r.oursMany = pair("package ipam", quickTurn, allocator)
	r.hostLocal, r.hostLocalMany = pair("host-local", slowTurn, hostLocal)
	r.etcd, r.etcdMany = pair("etcd", slowTurn, transaction)
	return nil
}

// slotSize is that of the writes: a lease is a slot of the lease file.
const slotSize = 256

// openFloor returns what an allocation and a release cannot do without: two writes into a file that is there already.
func (r *ipamRace) openFloor(path string) (func(context.Context, int) error, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, f.Close)
	const slots = 1024
	if _, err := f.Write(make([]byte, slots*slotSize)); err != nil {
		return nil, fmt.Errorf("preallocate %s: %w", path, err)
	}
	var slot [slotSize]byte
	n := 0
	return func(context.Context, int) error { // one caller
		n++
		slot[0] = byte(n)
		for range 2 {
			if _, err := f.WriteAt(slot[:], int64(n%slots)*slotSize); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// openAllocator makes the allocator of a host with 1,024 addresses, which rest no time: the race would wait for them.
func (r *ipamRace) openAllocator(path string) (func(context.Context, int) error, error) {
	a, err := ipam.Open(path, ipam.Options{Quarantine: -1})
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, a.Close)
	if err := a.SetBlocks([]ipam.Block{{Prefix: netip.MustParsePrefix("10.64.0.0/22")}}); err != nil {
		return nil, err
	}
	keys := make([]ipam.Key, manyCallers)
	for i := range keys {
		keys[i] = ipam.Key{ContainerID: fmt.Sprintf("%064x", i), Interface: "eth0"}
	}
	return func(_ context.Context, caller int) error {
		if _, err := a.Allocate(keys[caller], ipam.Request{}); err != nil {
			return err
		}
		_, err := a.Release(keys[caller])
		return err
	}, nil
}

// run is one turn: every caller goes on until it is over, and finishes the cycle it is in.
func (c *contender) run(ctx context.Context) error {
	var over atomic.Bool
	timer := time.AfterFunc(c.turn, func() { over.Store(true) })
	defer timer.Stop()
	counts, errs := make([]int, c.callers), make([]error, c.callers)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range c.callers {
		wg.Go(func() {
			n := 0
			for ; !over.Load() && errs[i] == nil; n++ {
				errs[i] = c.cycle(ctx, i)
			}
			counts[i] = n
		})
	}
	wg.Wait()
	took := time.Since(began)
	sum := 0
	for _, n := range counts {
		sum += n
	}
	c.rates = append(c.rates, float64(sum)/took.Seconds())
	return errors.Join(errs...)
}

func (c *contender) median() float64 { return quantile(c.rates, 0.5) }

func (r *ipamRace) results(conditions string) []Result {
	row := func(name string, ours, theirs *contender, against, target string) Result {
		return Result{
			Name: name, Unit: "allocate+release/s", Value: ours.median(), Target: target,
			Conditions: fmt.Sprintf("callers: %d, baseline %d; %s", ours.callers, theirs.callers, conditions),
		}.against(against, theirs.median())
	}
	const (
		floor     = "2 pwrites of 256 bytes, no fsync"
		hostLocal = "host-local v1.7.1, ADD and DEL, exec to exit"
		etcd      = "etcd, a transaction and a delete, its default fsync"
	)
	return []Result{
		row("ipam.durable", r.ours, r.floor, floor, "ratio >= 0.3 and >= 200,000/s"),
		row("ipam.durable.64", r.oursMany, r.floor, floor, "ratio >= 0.3"),
		row("ipam.durable.host-local", r.ours, r.hostLocal, hostLocal, "ratio > 1"),
		row("ipam.durable.host-local.64", r.oursMany, r.hostLocalMany, hostLocal, "ratio > 1"),
		row("ipam.durable.etcd", r.ours, r.etcd, etcd, "ratio > 1"),
		row("ipam.durable.etcd.64", r.oursMany, r.etcdMany, etcd, "ratio > 1"),
	}
}
