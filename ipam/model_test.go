package ipam

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var modelSeed = flag.Uint64("seed", 0, "seed of the model test; 0 draws one")

// model is the allocator as one would write it without caring for time, memory or crashes: lists that are searched.
type model struct {
	clock  *clock
	blocks []netip.Prefix
	held   map[string][]netip.Addr
	freed  map[netip.Addr]time.Time // every address ever used and not held
}

func (m *model) taken(addr netip.Addr) bool {
	for _, addrs := range m.held {
		if slices.Contains(addrs, addr) {
			return true
		}
	}
	return false
}

// next is the address of a family whose turn it is.
func (m *model) next(v4 bool) (netip.Addr, bool) {
	var best netip.Addr
	for _, b := range m.blocks {
		if b.Addr().Is4() != v4 {
			continue
		}
		for addr := b.Addr(); b.Contains(addr); addr = addr.Next() {
			at, used := m.freed[addr]
			switch {
			case m.taken(addr):
			case !used:
				return addr, true
			case !best.IsValid() || at.Before(m.freed[best]) || at.Equal(m.freed[best]) && addr.Less(best):
				best = addr
			}
		}
	}
	return best, best.IsValid()
}

func (m *model) allocate(id string, wanted []netip.Addr) ([]netip.Addr, error) {
	if have := m.held[id]; have != nil {
		for _, w := range wanted {
			if !slices.Contains(have, w) {
				return nil, ErrMismatch
			}
		}
		return have, nil
	}
	var got []netip.Addr
	for _, v4 := range []bool{true, false} {
		i := slices.IndexFunc(wanted, func(a netip.Addr) bool { return a.Is4() == v4 })
		has := slices.ContainsFunc(m.blocks, func(b netip.Prefix) bool { return b.Addr().Is4() == v4 })
		switch {
		case i >= 0 && !slices.ContainsFunc(m.blocks, func(b netip.Prefix) bool { return b.Contains(wanted[i]) }):
			return nil, ErrNotInBlock
		case i >= 0 && m.taken(wanted[i]):
			return nil, ErrAddressInUse
		case i >= 0:
			got = append(got, wanted[i])
		case has:
			addr, ok := m.next(v4)
			if !ok {
				return nil, ErrExhausted
			}
			got = append(got, addr)
		}
	}
	if got == nil {
		return nil, ErrExhausted
	}
	for _, addr := range got {
		delete(m.freed, addr)
	}
	m.held[id] = got
	return got, nil
}

func (m *model) release(id string) {
	for _, addr := range m.held[id] {
		m.freed[addr] = m.clock.now()
	}
	delete(m.held, id)
}

func (m *model) reboot() {
	for id := range m.held {
		m.release(id)
	}
}

// TestModel drives the allocator and the model with the same random steps, among them restarts, reboots and changes of
// blocks, and wants the same answers: which address, which error, what is listed.
func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d (go test -run TestModel -seed N repeats it)", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	all := []string{"10.1.0.0/28", "10.1.0.16/30", "10.2.0.4/31", "fd00::/125", "fd01::/124"}
	for run := range 8 {
		f := newFixture(t)
		f.opts.Log = nil
		m := &model{clock: f.clock, held: map[string][]netip.Addr{}, freed: map[netip.Addr]time.Time{}}
		boot := 0
		setBlocks := func(n int) {
			m.blocks = nil
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for _, s := range all[:n] {
				m.blocks = append(m.blocks, netip.MustParsePrefix(s))
			}
			f.setBlocks(all[:n]...)
		}
		names := func() []string {
			var s []string
			for _, b := range m.blocks {
				s = append(s, b.String())
			}
			return s
		}
		setBlocks(3)
		for step := range 1500 {
			f.clock.add(time.Duration(1 + rng.IntN(int(2*time.Second))))
			id := fmt.Sprintf("c%d", rng.IntN(25))
			switch op := rng.IntN(100); {
			case op < 50:
				var wanted []netip.Addr
				if rng.IntN(5) == 0 {
					wanted = append(wanted, netip.AddrFrom4([4]byte{10, 1, 0, byte(rng.IntN(22))}))
				}
				if rng.IntN(10) == 0 {
					wanted = append(wanted, netip.AddrFrom16([16]byte{0xfd, 15: byte(rng.IntN(10))}))
				}
				want, wantErr := m.allocate(id, wanted)
				leases, err := f.Allocate(testKey(id), Request{Addresses: wanted})
				if !errors.Is(err, wantErr) || !slices.Equal(addrsOf(leases), want) {
					t.Fatalf("run %d step %d: allocate %s %v: %v, %v, want %v, %v", run, step, id, wanted, addrsOf(leases), err, want, wantErr)
				}
			case op < 90:
				f.release(id)
				m.release(id)
			case op < 96:
				f.reopen(f.opts.BootID, names()...)
			case op < 97:
				boot++
				m.reboot()
				f.reopen(fmt.Sprintf("boot%d", boot), names()...)
			default:
				setBlocks(1 + rng.IntN(len(all)))
			}
			compare(t, f, m)
		}
		if d := f.Damaged(); len(d) != 0 {
			t.Fatal(d)
		}
		f.close()
	}
}

func compare(t *testing.T, f *fixture, m *model) {
	t.Helper()
	n := 0
	for id, addrs := range m.held {
		leases, _ := f.Lookup(testKey(id))
		if !slices.Equal(addrsOf(leases), addrs) {
			t.Fatalf("%s holds %v, want %v", id, addrsOf(leases), addrs)
		}
		n += len(addrs)
	}
	leases := f.Leases()
	if len(leases) != n || !slices.IsSortedFunc(leases, func(x, y Lease) int { return x.Addr.Compare(y.Addr) }) {
		t.Fatalf("%d leases, want %d, sorted: %v", len(leases), n, leases)
	}
	resting := 0
	for _, at := range m.freed {
		if f.clock.now().Sub(at) < DefaultQuarantine {
			resting++
		}
	}
	if q := f.Quarantined(); len(q) != resting {
		t.Fatalf("%d in quarantine, want %d", len(q), resting)
	}
	for _, u := range f.Usage() {
		var leased, quarantined uint64
		for addr := u.Block.Prefix.Addr(); u.Block.Prefix.Contains(addr); addr = addr.Next() {
			at, used := m.freed[addr]
			switch {
			case m.taken(addr):
				leased++
			case used && f.clock.now().Sub(at) < DefaultQuarantine:
				quarantined++
			}
		}
		if free := u.Size.Uint64() - leased - quarantined; u.Leased != leased || u.Quarantined != quarantined || u.Free.Uint64() != free {
			t.Fatalf("usage of %s: %+v, want %d leased, %d quarantined, %d free", u.Block.Prefix, u, leased, quarantined, free)
		}
	}
}
