package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Open opens the lease file at path, or makes one, and takes an exclusive lock on it; ErrLocked if another agent has
// it. Leases written since the host booted are held again; older ones go into quarantine. Until SetBlocks there is
// nothing to allocate from.
func Open(path string, opts Options) (*Allocator, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("lease file %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lease file %s: %w", path, err)
	}
	f, err := openLocked(path)
	if err != nil {
		return nil, fmt.Errorf("lease file %s: %w", path, err)
	}
	opts.Log = opts.Log.With("file", path)
	a, err := open(osFile{f}, opts)
	if err != nil {
		f.Close()
		if errors.Is(err, ErrUnreadable) {
			err = fmt.Errorf("%w; if no container of this host uses its addresses, move it away", err)
		}
		return nil, fmt.Errorf("lease file %s: %w", path, err)
	}
	return a, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Quarantine == 0 {
		o.Quarantine = DefaultQuarantine
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.BootID == "" {
		id, err := kernelBootID()
		if err != nil {
			return o, err
		}
		o.BootID = id
	}
	if len(o.BootID) > maxBootID {
		return o, fmt.Errorf("boot id has %d bytes: want at most %d", len(o.BootID), maxBootID)
	}
	return o, nil
}

// open takes over a disk on success.
func open(d disk, opts Options) (*Allocator, error) {
	a := &Allocator{
		opts: opts, log: opts.Log, start: opts.Now(),
		book: newBook(opts.Quarantine), slots: slots{disk: d}, stale: make(map[int32]struct{}),
	}
	h, fresh, err := a.slots.readHeader()
	if err != nil {
		return nil, err
	}
	a.generation = h.generation
	sameBoot := !fresh && h.bootID == opts.BootID
	if !sameBoot {
		a.generation++
	}
	r := restorer{generation: a.generation, sameBoot: sameBoot, start: a.start.UnixNano()}
	if err := a.slots.each(r.slot); err != nil {
		return nil, err
	}
	damaged := r.finish(a.book)
	if sameBoot {
		a.damaged = damaged
	}
	a.report(&r, damaged, sameBoot)

	// What the restorer changed is written before the header says that this boot has seen it. If it cannot be, the
	// slots' own generation still tells, and heal tries again.
	if err := a.commit(r.changed, a.entryOf); err != nil {
		a.log.Warn("restored leases could not be written back", "slots", len(r.changed), "err", err)
	}
	if !sameBoot {
		if err := a.slots.writeHeader(header{generation: a.generation, bootID: opts.BootID}); err != nil {
			return nil, fmt.Errorf("%w: header: %w", ErrStorage, err)
		}
	}
	return a, nil
}

func (a *Allocator) report(r *restorer, damaged []Damaged, sameBoot bool) {
	outcome := "its address and those that it may have had are fenced off until the host reboots"
	if !sameBoot {
		outcome = "nothing is lost, as the host has been rebooted"
	}
	for _, d := range damaged {
		a.log.Error("damaged slot in the lease file: "+outcome, "slot", d.Slot, "addr", d.Addr, "reason", d.Reason)
	}
	for _, key := range r.kept {
		a.log.Error("a part of this allocation is in no readable slot; the rest stays leased", "key", key)
	}
	a.log.Info("leases restored", "allocations", len(a.book.held), "addresses_known", len(a.book.byAddr),
		"rolled_back", r.rolledBack, "from_before_boot", r.foreign)
}
