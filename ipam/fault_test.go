package ipam

import (
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
)

// memDisk is a disk in memory. It can fail as a real one does: before, in the middle of, or after a write.
type memDisk struct {
	data []byte
	fail func() (failure, bool) // nil never fails
}

type failure struct {
	err  error
	part int // bytes that get written nevertheless
}

func (d *memDisk) failure() (failure, bool) {
	if d.fail == nil {
		return failure{}, false
	}
	return d.fail()
}

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	n := copy(p, d.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	if f, bad := d.failure(); bad {
		n := min(f.part, len(p))
		copy(d.data[off:], p[:n])
		return n, f.err
	}
	if need := off + int64(len(p)); need > int64(len(d.data)) {
		d.data = append(d.data, make([]byte, need-int64(len(d.data)))...)
	}
	return copy(d.data[off:], p), nil
}

func (d *memDisk) Extend(to int64) error {
	if f, bad := d.failure(); bad {
		return f.err
	}
	if to > int64(len(d.data)) {
		d.data = append(d.data, make([]byte, to-int64(len(d.data)))...)
	}
	return nil
}

func (d *memDisk) Sync() error {
	if f, bad := d.failure(); bad {
		return f.err
	}
	return nil
}

func (d *memDisk) Close() error { return nil }

// failAlways makes every write fail, and half of them tear.
func failAlways(err error) func() (failure, bool) {
	part := 0
	return func() (failure, bool) {
		part = slotSize/2 - part
		return failure{err, part}, true
	}
}

func onMemory(t *testing.T, opts Options, blocks ...string) (*fixture, *memDisk) {
	t.Helper()
	c := newClock()
	opts.BootID, opts.Now = boot1, c.now
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	d := &memDisk{}
	a, err := open(d, opts)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Allocator: a, t: t, clock: c, opts: opts}
	f.setBlocks(blocks...)
	return f, d
}

// restart opens what is on the disk, as after a SIGKILL.
func (f *fixture) restart(d *memDisk, blocks ...string) {
	f.t.Helper()
	d.fail = nil
	a, err := open(d, f.opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Allocator = a
	f.setBlocks(blocks...)
}

func TestFailedWrites(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			f, d := onMemory(t, Options{}, "10.1.0.0/29", "fd00::/64")
			f.allocate("a")
			d.fail = failAlways(errno)
			for range 3 {
				if _, err := f.Allocate(testKey("b"), Request{}); !errors.Is(err, ErrStorage) || !errors.Is(err, errno) {
					t.Fatalf("allocate: %v", err)
				}
				if _, err := f.Release(testKey("a")); !errors.Is(err, ErrStorage) {
					t.Fatalf("release: %v", err)
				}
			}
			f.want("a", "10.1.0.0", "fd00::")
			f.want("b")
			if err := f.Err(); !errors.Is(err, errno) {
				t.Errorf("Err: %v", err)
			}
			if q, u := f.Quarantined(), f.Usage(); len(q) != 0 || u[0].Leased != 1 || u[1].Leased != 1 {
				t.Errorf("something changed: %v, %v", q, u)
			}

			d.fail = nil
			f.allocate("b")
			f.want("b", "10.1.0.2", "fd00::2")
			if err := f.Err(); err != nil {
				t.Errorf("Err after recovery: %v", err)
			}
			f.restart(d, "10.1.0.0/29", "fd00::/64")
			f.want("a", "10.1.0.0", "fd00::")
			f.want("b", "10.1.0.2", "fd00::2")
			if bad := f.Damaged(); len(bad) != 0 {
				t.Errorf("damaged: %v", bad)
			}
		})
	}
}

// A repeated Allocate must not confirm a lease that a failed Release has half taken out of the file.
func TestAllocateAfterFailedRelease(t *testing.T) {
	f, d := onMemory(t, Options{Fsync: true}, "10.1.0.0/29")
	f.allocate("a")
	writes := 0
	d.fail = func() (failure, bool) { writes++; return failure{err: syscall.EIO, part: slotSize}, writes == 1 }
	if _, err := f.Release(testKey("a")); !errors.Is(err, ErrStorage) {
		t.Fatalf("release: %v", err)
	}
	f.allocate("a")
	f.restart(d, "10.1.0.0/29")
	f.want("a", "10.1.0.0")
}

func TestFsync(t *testing.T) {
	f, d := onMemory(t, Options{Fsync: true}, "10.1.0.0/29")
	calls := 0
	d.fail = func() (failure, bool) { calls++; return failure{err: syscall.EIO}, calls == 2 } // the write works, its sync does not
	if _, err := f.Allocate(testKey("a"), Request{}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v", err)
	}
	f.want("a")
	f.allocate("a")
	f.want("a", "10.1.0.1")
}

// Random faults: whatever fails and wherever the process then dies, no acknowledged lease is lost, and none is doubled.
func TestRandomFaults(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		blocks := []string{"10.1.0.0/29", "fd00::/125"}
		f, d := onMemory(t, Options{Fsync: rng.IntN(2) == 0}, blocks...)
		acked := map[string]string{} // id -> addresses
		for range 200 {
			d.fail = nil
			if n := rng.IntN(8); n < 4 {
				d.fail = func() (failure, bool) {
					n--
					return failure{syscall.EIO, rng.IntN(2) * slotSize}, n < 0
				}
			}
			id := strconv.Itoa(rng.IntN(10))
			switch op := rng.IntN(9); {
			case op < 4:
				if leases, err := f.Allocate(testKey(id), Request{}); err == nil {
					acked[id] = text(leases)
				} else if acked[id] != "" && !errors.Is(err, ErrStorage) {
					t.Fatalf("allocate: %v", err)
				}
			case op < 8:
				// From here on the lease may be gone, until Allocate confirms it again.
				delete(acked, id)
				if _, err := f.Release(testKey(id)); err != nil && !errors.Is(err, ErrStorage) {
					t.Fatal(err)
				}
			default:
				f.restart(d, blocks...)
			}
			for id, want := range acked {
				if leases, _ := f.Lookup(testKey(id)); text(leases) != want {
					t.Fatalf("%s holds %s, want %s", id, text(leases), want)
				}
			}
			wantDistinct(t, f.Leases())
		}
	}
}

func text(leases []Lease) string {
	var s string
	for _, l := range leases {
		s += l.Addr.String() + " "
	}
	return s
}

func wantDistinct(t *testing.T, leases []Lease) {
	t.Helper()
	for i := 1; i < len(leases); i++ {
		if leases[i-1].Addr == leases[i].Addr {
			t.Fatalf("%s is held by %s and %s", leases[i].Addr, leases[i-1].Key, leases[i].Key)
		}
	}
}
