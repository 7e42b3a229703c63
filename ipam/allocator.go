package ipam

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Allocator hands out the addresses of a host's blocks. Its methods may be called from any goroutine.
type Allocator struct {
	opts  Options
	log   *slog.Logger
	start time.Time // zero of the book's clock

	mu         sync.Mutex // guards all below, and the order of writes to the file
	book       *book
	slots      slots
	generation uint64
	closed     bool
	stale      map[int32]struct{} // slots whose last write failed: the file may say something else than the book
	storageErr error              // why the last write failed; nil once one succeeded
	growErr    error              // why the file could not grow when it last should have
	damaged    []Damaged
}

// Allocate gives key an address of each family that the pool has blocks of, or of none. The leases are in the lease file before
// it returns. A key that holds addresses already gets those, if they are what the request wants.
func (a *Allocator) Allocate(key Key, req Request) ([]Lease, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	w, err := req.wish()
	if err != nil {
		return nil, fmt.Errorf("allocate for %s: %w", key, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	leases, err := a.allocate(key, &w)
	if err != nil {
		return nil, fmt.Errorf("allocate for %s: %w", key, err)
	}
	return leases, nil
}

func (a *Allocator) allocate(key Key, w *wish) ([]Lease, error) {
	if a.closed {
		return nil, ErrClosed
	}
	if h := a.book.held[key]; h != nil {
		return a.again(h, w)
	}
	if err := a.heal(); err != nil {
		return nil, err
	}
	wall := a.opts.Now()
	now := a.clock(wall)
	picks, err := a.pick(w, now)
	if err != nil {
		return nil, err
	}
	h := a.book.lease(key, picks, a.slots.capacity, wall.UnixNano())
	if err := a.commit(h.all(), a.entryOf); err != nil {
		a.book.free(h, func(n int) int64 { return picks[n].freed })
		return nil, err
	}
	return a.leases(h), nil
}

// pick chooses addresses that have slots, or makes room for the slots of new ones.
func (a *Allocator) pick(w *wish, now int64) ([]pick, error) {
	picks, err := a.book.choose(w, now, true)
	if err != nil {
		return nil, err
	}
	noRoom := a.makeRoom(newSlots(picks), now)
	if noRoom == nil {
		return picks, nil
	}
	// On a full disk, those that were used before still do.
	picks, err = a.book.choose(w, now, false)
	if err != nil || newSlots(picks) > 0 {
		return nil, noRoom
	}
	return picks, nil
}

// again answers for a key that holds addresses.
func (a *Allocator) again(h *holding, w *wish) ([]Lease, error) {
	if h.n < int(h.members) {
		return nil, fmt.Errorf("%w: only a part of it could be read from the damaged lease file; release it first", ErrMismatch)
	}
	for _, addr := range w.addrs {
		if i, ok := a.book.byAddr[addr]; addr.IsValid() && (!ok || a.book.records[i].held != h) {
			return nil, fmt.Errorf("%w: it does not hold the wanted %s; release it first", ErrMismatch, addr)
		}
	}
	for _, i := range h.all() {
		if r := &a.book.records[i]; !w.family.Has(r.addr) {
			return nil, fmt.Errorf("%w: it holds %s, not only addresses of family %s; release it first", ErrMismatch, r.addr, w.family)
		}
		if r := &a.book.records[i]; w.pool != "" && r.block != nil && r.block.Pool != w.pool {
			return nil, fmt.Errorf("%w: it holds %s of pool %q, not of %q; release it first", ErrMismatch, r.addr, r.block.Pool, w.pool)
		}
		if _, stale := a.stale[i]; stale {
			if err := a.heal(); err != nil {
				return nil, err
			}
		}
	}
	return a.leases(h), nil
}

// Release takes back what key holds and returns it; holding nothing is no error. The addresses rest in quarantine.
// On an error the key holds what it held.
func (a *Allocator) Release(key Key) ([]Lease, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	leases, err := a.release(key)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", key, err)
	}
	return leases, nil
}

func (a *Allocator) release(key Key) ([]Lease, error) {
	if a.closed {
		return nil, ErrClosed
	}
	h := a.book.held[key]
	if h == nil {
		return nil, nil
	}
	if err := a.heal(); err != nil {
		return nil, err
	}
	leases := a.leases(h)
	wall := a.opts.Now()
	err := a.commit(h.all(), func(i int32) entry {
		e := a.entryOf(i)
		e.state, e.members, e.released = freed, 0, wall.UnixNano()
		return e
	})
	if err != nil {
		return nil, err
	}
	now := a.clock(wall)
	a.book.free(h, func(int) int64 { return now })
	return leases, nil
}

// Lookup returns what key holds.
func (a *Allocator) Lookup(key Key) ([]Lease, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.book.held[key]
	if h == nil {
		return nil, false
	}
	return a.leases(h), true
}

// Err says why the lease file could not be written, or made larger, when that was last tried; nil if it could. While
// it only cannot be made larger there are still slots to go on with.
func (a *Allocator) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.storageErr != nil {
		return a.storageErr
	}
	return a.growErr
}

// Close gives up the lease file, and with it the lock. The leases stay in it.
func (a *Allocator) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	return a.slots.disk.Close()
}

// commit writes slots, each as say has it, so that they survive this process. After an error the file may hold any
// of it; heal sees to that.
func (a *Allocator) commit(numbers []int32, say func(int32) entry) error {
	err := a.put(numbers, say)
	if err != nil {
		for _, i := range numbers {
			a.stale[i] = struct{}{}
		}
	}
	return err
}

// heal makes the file say what the book says, wherever a write had failed. As nothing is acknowledged before it
// succeeds, what is acknowledged always agrees with the whole file.
func (a *Allocator) heal() error {
	if len(a.stale) == 0 {
		return nil
	}
	numbers := make([]int32, 0, len(a.stale))
	for i := range a.stale {
		numbers = append(numbers, i)
	}
	if err := a.put(numbers, a.entryOf); err != nil {
		return err
	}
	clear(a.stale)
	return nil
}

func (a *Allocator) put(numbers []int32, say func(int32) entry) error {
	for _, i := range numbers {
		e := say(i)
		if err := a.slots.write(i, &e); err != nil {
			return a.storage(err)
		}
	}
	if a.opts.Fsync {
		if err := a.slots.disk.Sync(); err != nil {
			return a.storage(err)
		}
	}
	if a.storageErr != nil {
		a.storageErr = nil
		a.log.Info("lease file is writable again")
	}
	return nil
}

func (a *Allocator) storage(err error) error {
	if a.storageErr == nil {
		a.log.Error("lease file cannot be written; no address is handed out until it can", "err", err)
	}
	a.storageErr = fmt.Errorf("%w: %w", ErrStorage, err)
	return a.storageErr
}

// makeRoom sees to it that the file has room for so many new slots. It grows the file ahead of need, and takes no offence at a
// full disk while there are slots left.
func (a *Allocator) makeRoom(need int, now int64) error {
	if need == 0 || a.book.spare(lowWater, a.slots.capacity, now) == lowWater {
		return nil
	}
	err := a.grow(len(a.book.records) + chunk)
	if err == nil || a.book.spare(need, a.slots.capacity, now) == need {
		return nil
	}
	if a.slots.extend(a.slots.capacity+pageOfSlots) == nil {
		return nil
	}
	return err
}

// grow makes room in the file for n slots in all.
func (a *Allocator) grow(n int) error {
	err := a.slots.extend(n)
	switch {
	case err == nil:
		a.growErr = nil
		return nil
	case a.growErr == nil:
		a.log.Warn("lease file cannot grow; addresses never used before cannot be handed out for much longer", "slots", a.slots.capacity, "err", err)
	}
	a.growErr = fmt.Errorf("%w: it cannot grow beyond %d slots: %w", ErrStorage, a.slots.capacity, err)
	return a.growErr
}

// entryOf returns what the file should say of a slot, by the book.
func (a *Allocator) entryOf(i int32) entry {
	r := &a.book.records[i]
	e := entry{state: r.state, addr: r.addr, generation: a.generation}
	switch r.state {
	case leased:
		e.key, e.members, e.allocated = r.held.key, r.held.members, r.held.allocated
	case freed:
		e.released = a.start.UnixNano() + r.freed
	case vacant:
		e = entry{state: vacant}
	case fenced:
		// The record has no address if a sound slot has the same.
		if n, ok := slices.BinarySearchFunc(a.damaged, int(i), func(d Damaged, slot int) int { return d.Slot - slot }); ok {
			e.addr = a.damaged[n].Addr
		}
	}
	return e
}

func (a *Allocator) leases(h *holding) []Lease {
	out := make([]Lease, h.n)
	for n, i := range h.all() {
		out[n] = a.lease(i)
	}
	return out
}

func (a *Allocator) lease(i int32) Lease {
	r := &a.book.records[i]
	l := Lease{Key: r.held.key, Addr: r.addr, Allocated: time.Unix(0, r.held.allocated)}
	if r.block != nil {
		l.Block, l.Pool = r.block.Prefix, r.block.Pool
	}
	return l
}

// clock turns a time into the book's. It goes by the monotonic reading: no step of the wall clock ends a quarantine
// or makes it last.
func (a *Allocator) clock(t time.Time) int64 { return int64(t.Sub(a.start)) }
