package ipam

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var modelSeed = flag.Uint64("seed", 0, "seed of the model test; 0 draws one")

// modelRun is the allocator beside its model.
type modelRun struct {
	*fixture
	t     *testing.T
	rng   *rand.Rand
	model *model
	boots int
	seen  map[error]int // how often the two agreed on each outcome
}

// TestModel drives the allocator and the model with the same random steps and wants the same answers: which address,
// which error, what is listed, how the numbers add up. One mode restarts after every step, another reboots often.
func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for i, mode := range []struct {
		name            string
		runs, steps     int
		restart, reboot int // percent of the steps that are followed by one
	}{
		{"now and then a restart", 8, 1500, 5, 1},
		{"restart after every step", 4, 1000, 100, 0},
		{"many reboots", 4, 1000, 5, 10},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Logf("seed %d (go test -run TestModel -seed N repeats it)", seed)
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			seen := map[error]int{}
			for run := range mode.runs {
				f := newFixture(t)
				f.opts.Log = slog.New(slog.DiscardHandler)
				r := &modelRun{fixture: f, t: t, rng: rng, model: newModel(f.clock), seen: seen}
				r.drawBlocks()
				for step := range mode.steps {
					f.clock.add(time.Duration(1 + rng.IntN(int(2*time.Second))))
					what := r.step()
					r.check(fmt.Sprintf("run %d step %d: %s", run, step, what))
					switch p := rng.IntN(100); {
					case p < mode.reboot:
						r.reboot()
					case p < mode.reboot+mode.restart:
						r.restart()
					default:
						continue
					}
					r.check(fmt.Sprintf("run %d step %d: opened again after %s", run, step, what))
				}
				f.close()
			}
			for _, err := range []error{nil, ErrExhausted, ErrAddressInUse, ErrNotInBlock, ErrInvalidWish, ErrMismatch, ErrUnknownPool} {
				if seen[err] == 0 {
					t.Errorf("no step ended with %v: the run shows too little", err)
				}
			}
		})
	}
}

// step does one thing to both, and returns what.
func (r *modelRun) step() string {
	id := fmt.Sprintf("c%d", r.rng.IntN(25))
	switch op := r.rng.IntN(100); {
	case op < 52:
		return r.allocate(id)
	case op < 86:
		r.release(id)
		r.model.release(id)
		return "release " + id
	case op < 88:
		use := r.drawInUse(1)[0]
		if err := r.Reject(testKey(id), use); err != nil {
			r.t.Fatal(err)
		}
		r.model.release(id)
		r.model.setInUse(append(slices.Clone(r.model.inUse), use))
		return fmt.Sprintf("reject %s, as %v", id, use)
	case op < 94:
		set := r.drawInUse(r.rng.IntN(4))
		if r.rng.IntN(4) == 0 {
			set = append(set, r.model.inUse...)
		}
		r.SetInUse(set)
		r.model.setInUse(set)
		return fmt.Sprintf("in use: %v", set)
	default:
		return "blocks: " + r.drawBlocks()
	}
}

func (r *modelRun) allocate(id string) string {
	var wanted []netip.Addr
	odds := 8
	if r.rng.IntN(4) == 0 {
		wanted = append(wanted, netip.AddrFrom4([4]byte{10, 1, 0, byte(r.rng.IntN(26))}))
		odds = 2
	}
	if r.rng.IntN(odds) == 0 {
		wanted = append(wanted, netip.AddrFrom16([16]byte{0xfd, byte(r.rng.IntN(2)), 15: byte(r.rng.IntN(10))}))
	}
	pool := []string{"", "", "", "", DefaultPool, "gold", "gold", "lead"}[r.rng.IntN(8)]
	want, wantErr := r.model.allocate(id, pool, wanted)
	leases, err := r.Allocate(testKey(id), Request{Pool: pool, Addresses: wanted})
	if !errors.Is(err, wantErr) || !slices.Equal(addrsOf(leases), want) {
		r.t.Fatalf("allocate %s %q %v: %v, %v, want %v, %v", id, pool, wanted, addrsOf(leases), err, want, wantErr)
	}
	r.seen[wantErr]++
	return fmt.Sprintf("allocate %s %q %v", id, pool, wanted)
}

func (r *modelRun) drawBlocks() string {
	all := []string{"10.1.0.0/28", "10.1.0.16/30", "10.1.0.20/30", "10.2.0.4/31", "fd00::/125", "fd00::8/127", "fd01::/124"}
	r.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	r.model.blocks = nil
	for _, s := range all[:r.rng.IntN(len(all)+1)] {
		b := Block{Prefix: netip.MustParsePrefix(s), Pool: []string{DefaultPool, DefaultPool, "gold"}[r.rng.IntN(3)], Draining: r.rng.IntN(6) == 0}
		for range r.rng.IntN(3) {
			first, last := r.drawAddr(b.Prefix), r.drawAddr(b.Prefix)
			if last.Less(first) {
				first, last = last, first
			}
			if b.Reserved = append(b.Reserved, Range{first, last}); r.rng.IntN(2) == 0 {
				b.Reserved[len(b.Reserved)-1].Last = first
			}
		}
		r.model.blocks = append(r.model.blocks, b)
	}
	r.give()
	return fmt.Sprint(r.model.blocks)
}

func (r *modelRun) drawAddr(p netip.Prefix) netip.Addr {
	addr := p.Addr()
	for range r.rng.IntN(int(size(p).Int64())) {
		addr = addr.Next()
	}
	return addr
}

func (r *modelRun) drawInUse(n int) []InUse {
	var set []InUse
	for i := range n {
		var p netip.Prefix
		if r.rng.IntN(2) == 0 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(r.rng.IntN(26))}), 29+r.rng.IntN(4))
		} else {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(r.rng.IntN(2)), 15: byte(r.rng.IntN(10))}), 125+r.rng.IntN(4))
		}
		set = append(set, InUse{Prefix: p.Masked(), By: fmt.Sprint("user ", i)})
	}
	return set
}

// give tells the allocator the model's blocks; those of the default pool name it or not.
func (r *modelRun) give() {
	blocks := slices.Clone(r.model.blocks)
	for i := range blocks {
		if blocks[i].Pool == DefaultPool && r.rng.IntN(2) == 0 {
			blocks[i].Pool = ""
		}
	}
	if err := r.SetBlocks(blocks); err != nil {
		r.t.Fatal(err)
	}
}

func (r *modelRun) restart() {
	r.model.restart()
	r.reopen(r.opts.BootID)
	r.SetInUse(r.model.inUse)
	r.give()
}

func (r *modelRun) reboot() {
	r.model.reboot()
	r.boots++
	r.reopen(fmt.Sprintf("boot%d", r.boots))
	r.give()
	r.SetInUse(r.model.inUse)
}

// check compares all that shows of the two.
func (r *modelRun) check(after string) {
	r.t.Helper()
	m := r.model
	n := 0
	for id, addrs := range m.held {
		leases, _ := r.Lookup(testKey(id))
		if !slices.Equal(addrsOf(leases), addrs) {
			r.t.Fatalf("after %s: %s holds %v, want %v", after, id, addrsOf(leases), addrs)
		}
		for _, l := range leases {
			var want Lease
			if b := m.blockOf(l.Addr); b != nil {
				want.Block, want.Pool = b.Prefix, b.Pool
			}
			if l.Block != want.Block || l.Pool != want.Pool {
				r.t.Fatalf("after %s: %+v, want block %s of pool %q", after, l, want.Block, want.Pool)
			}
		}
		n += len(addrs)
	}
	leases := r.Leases()
	if len(leases) != n || !slices.IsSortedFunc(leases, func(x, y Lease) int { return x.Addr.Compare(y.Addr) }) {
		r.t.Fatalf("after %s: %d leases, want %d, sorted: %v", after, len(leases), n, leases)
	}
	resting := 0
	for addr := range m.freed {
		if at, _ := m.rests(addr); r.clock.now().Sub(at) < DefaultQuarantine {
			resting++
		}
	}
	if q := r.Quarantined(); len(q) != resting {
		r.t.Fatalf("after %s: %d in quarantine, want %d", after, len(q), resting)
	}
	for _, u := range r.Usage() {
		got := usage{int64(u.Leased), int64(u.Quarantined), u.Reserved.Int64(), u.InUse.Int64(), u.Free.Int64(), u.Withheld.Int64()}
		if want := m.usage(m.blockOf(u.Block.Prefix.Addr())); got != want {
			r.t.Fatalf("after %s: usage of %s: %+v, want %+v", after, u.Block.Prefix, got, want)
		}
		wantSum(r.t, u)
	}
	if d := r.Damaged(); len(d) != 0 {
		r.t.Fatalf("after %s: damaged: %v", after, d)
	}
}

// wantSum wants every address of a block to be counted once.
func wantSum(t testing.TB, u Usage) {
	t.Helper()
	sum := new(big.Int).SetUint64(u.Leased + u.Quarantined)
	for _, n := range []*big.Int{u.Reserved, u.InUse, u.Free, u.Withheld} {
		if n.Sign() < 0 {
			t.Fatalf("a negative number: %+v", u)
		}
		sum.Add(sum, n)
	}
	if sum.Cmp(u.Size) != 0 {
		t.Fatalf("%s of %s addresses are counted: %+v", sum, u.Size, u)
	}
}
