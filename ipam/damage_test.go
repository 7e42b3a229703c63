package ipam

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// edit changes the closed lease file in place.
func (f *fixture) edit(change func(file []byte) []byte) {
	f.t.Helper()
	f.close()
	b, err := os.ReadFile(f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(f.path, change(b), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func slotAt(file []byte, i int) *slotBuf {
	off := headerSize + i*slotSize
	return (*slotBuf)(file[off : off+slotSize])
}

func reencode(t *testing.T, buf *slotBuf, change func(*entry)) {
	t.Helper()
	e, err := decode(buf)
	if err != nil {
		t.Fatal(err)
	}
	change(&e)
	e.encode(buf)
}

// Four single leases a, b, c, d are in slots 0 to 3; then the file is damaged.
func TestDamagedSlots(t *testing.T) {
	for _, tc := range []struct {
		name    string
		damage  func(t *testing.T, file []byte)
		reasons []string // of the damaged slots
		fenced  []string // addresses not to be handed out: those read in damaged slots, and as many that look new
		held    string   // who still holds what was theirs
		next    string   // next address never used
	}{
		{
			name:    "bit flip in the key",
			damage:  func(_ *testing.T, file []byte) { slotAt(file, 1)[offID] ^= 1 },
			reasons: []string{"checksum"}, fenced: []string{"10.1.0.1", "10.1.0.4"}, held: "acd", next: "10.1.0.5",
		},
		{
			name:    "bit flip in the address, to one never used",
			damage:  func(_ *testing.T, file []byte) { slotAt(file, 3)[offAddr+3] = 6 },
			reasons: []string{"checksum"}, fenced: []string{"10.1.0.6", "10.1.0.3"}, held: "abc", next: "10.1.0.4",
		},
		{
			name:    "address becomes one that a sound slot has",
			damage:  func(_ *testing.T, file []byte) { slotAt(file, 3)[offAddr+3] = 0 },
			reasons: []string{"checksum"}, fenced: []string{"10.1.0.3"}, held: "abc", next: "10.1.0.4",
		},
		{
			name:    "zeroes",
			damage:  func(_ *testing.T, file []byte) { *slotAt(file, 1) = slotBuf{} },
			reasons: []string{"zeroes"}, fenced: []string{"10.1.0.1"}, held: "acd", next: "10.1.0.4",
		},
		{
			name: "half a slot of another",
			damage: func(_ *testing.T, file []byte) {
				copy(slotAt(file, 2)[slotSize/2:], strings.Repeat("x", slotSize/2))
			},
			reasons: []string{"checksum"}, fenced: []string{"10.1.0.2", "10.1.0.4"}, held: "abd", next: "10.1.0.5",
		},
		{
			name:    "one slot copied over another",
			damage:  func(_ *testing.T, file []byte) { *slotAt(file, 2) = *slotAt(file, 0) },
			reasons: []string{"same address", "same address"}, fenced: []string{"10.1.0.0", "10.1.0.2", "10.1.0.4"}, held: "bd", next: "10.1.0.5",
		},
		{
			name: "two allocations of one key",
			damage: func(t *testing.T, file []byte) {
				reencode(t, slotAt(file, 2), func(e *entry) { e.key = testKey("a") })
			},
			reasons: []string{"more than one", "more than one"}, fenced: []string{"10.1.0.0", "10.1.0.2", "10.1.0.4", "10.1.0.5"}, held: "bd", next: "10.1.0.6",
		},
		{
			name: "a boot yet to come",
			damage: func(t *testing.T, file []byte) {
				reencode(t, slotAt(file, 0), func(e *entry) { e.generation = 9 })
			},
			reasons: []string{"yet to come"}, fenced: []string{"10.1.0.0", "10.1.0.4"}, held: "bcd", next: "10.1.0.5",
		},
		{
			name: "with damage about, an allocation cut short may be whole",
			damage: func(t *testing.T, file []byte) {
				reencode(t, slotAt(file, 0), func(e *entry) { e.members = 2 })
				slotAt(file, 1)[offID] ^= 1
			},
			reasons: []string{"checksum"}, fenced: []string{"10.1.0.1", "10.1.0.4"}, held: "acd", next: "10.1.0.5",
		},
		{
			name: "in a sound file, an allocation cut short is rolled back",
			damage: func(t *testing.T, file []byte) {
				reencode(t, slotAt(file, 0), func(e *entry) { e.members = 2 })
			},
			held: "bcd", next: "10.1.0.4",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, "10.1.0.0/29")
			for _, id := range []string{"a", "b", "c", "d"} {
				f.allocate(id)
			}
			f.edit(func(file []byte) []byte { tc.damage(t, file); return file })
			f.open("10.1.0.0/29")
			damaged := f.Damaged()
			if len(damaged) != len(tc.reasons) {
				t.Fatalf("damaged: %v", damaged)
			}
			for i, d := range damaged {
				if !strings.Contains(d.Reason, tc.reasons[i]) {
					t.Errorf("damaged: %+v, want %s", d, tc.reasons[i])
				}
			}
			var held string
			for i, id := range []string{"a", "b", "c", "d"} {
				if l, ok := f.Lookup(testKey(id)); ok {
					held += id
					if l[0].Addr != netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}) {
						t.Errorf("%s holds %v", id, l)
					}
				}
			}
			if held != tc.held {
				t.Errorf("held by %s, want %s", held, tc.held)
			}
			f.clock.add(time.Hour)
			for _, addr := range tc.fenced {
				if _, err := f.Allocate(testKey("x"), request(addr)); !errors.Is(err, ErrAddressInUse) {
					t.Errorf("%s is not fenced off: %v", addr, err)
				}
			}
			if q := f.Quarantined(); len(q) != len(tc.fenced) {
				t.Errorf("fenced: %v, want %v", q, tc.fenced)
			}
			if u := f.Usage()[0]; u.Quarantined != uint64(len(tc.fenced)) || u.Leased != uint64(len(held)) {
				t.Errorf("usage: %+v", u)
			}
			f.allocate("y")
			f.want("y", tc.next)

			// The same boot sees the same damage again; after a reboot all is well.
			f.reopen(boot1, "10.1.0.0/29")
			if n := len(f.Damaged()); n != len(tc.reasons) {
				t.Errorf("%d damaged after another restart, want %d", n, len(tc.reasons))
			}
			f.reopen(boot2, "10.1.0.0/29")
			f.clock.add(time.Hour)
			if d, q := f.Damaged(), f.Quarantined(); len(d)+len(q) != 0 {
				t.Errorf("after a reboot: damaged %v, quarantined %v", d, q)
			}
			for _, id := range strings.Split("ijklmnop", "") {
				f.allocate(id)
			}
			f.reopen(boot2, "10.1.0.0/29")
			if d, l := f.Damaged(), f.Leases(); len(d) != 0 || len(l) != 8 {
				t.Errorf("damaged slots were not put to use again: %v, %d leases", d, len(l))
			}
		})
	}
}

// A container whose second address is in a damaged slot keeps the first until it is released.
func TestHalfReadableDualStackLease(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29", "fd00::/64")
	f.allocate("a")
	f.edit(func(file []byte) []byte { slotAt(file, 1)[offID] ^= 1; return file })
	f.open("10.1.0.0/29", "fd00::/64")
	f.want("a", "10.1.0.0")
	if _, err := f.Allocate(testKey("a"), Request{}); !errors.Is(err, ErrMismatch) {
		t.Errorf("got %v", err)
	}
	f.release("a")
	f.allocate("a")
	f.want("a", "10.1.0.2", "fd00::2")
}

// What the contradictory slots of a key say must not be taken together with a lease that the key is given afterwards.
func TestNewLeaseAfterContradiction(t *testing.T) {
	f := newFixture(t, "10.1.0.0/28")
	for _, id := range []string{"a", "b", "c"} {
		f.allocate(id)
	}
	f.edit(func(file []byte) []byte {
		reencode(t, slotAt(file, 2), func(e *entry) { e.key = testKey("a"); e.allocated++ })
		return file
	})
	f.open("10.1.0.0/28")
	f.want("a")
	f.allocate("a")
	for range 3 {
		f.want("a", "10.1.0.5") // beyond two that are fenced off, and two that the damaged slots may have had
		f.want("b", "10.1.0.1")
		if d := f.Damaged(); len(d) != 2 || d[0].Addr.String() != "10.1.0.0" || d[1].Addr.String() != "10.1.0.2" {
			t.Errorf("damaged: %+v", d)
		}
		f.reopen(boot1, "10.1.0.0/28")
	}
	f.release("a")
	f.reopen(boot1, "10.1.0.0/28")
	f.want("a")
	f.refused(ErrAddressInUse, "fenced off", "", "10.1.0.2")
}

// A lease cannot be newer than the boot that the header tells of: no container outlives a reboot.
func TestLeaseOfAnUnknownBoot(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29")
	f.allocate("a")
	f.edit(func(file []byte) []byte {
		reencode(t, slotAt(file, 0), func(e *entry) { e.generation++ })
		return file
	})
	f.opts.BootID = boot2
	f.open("10.1.0.0/29")
	f.want("a")
	if q := f.Quarantined(); len(q) != 1 || q[0].Addr.String() != "10.1.0.0" {
		t.Errorf("in quarantine: %v", q)
	}
}

func TestTruncatedFile(t *testing.T) {
	f := newFixture(t, "10.1.0.0/29")
	f.allocate("a")
	f.allocate("b")
	f.edit(func(file []byte) []byte { return file[:headerSize+slotSize+offInterface+2] })
	f.open("10.1.0.0/29")
	f.want("a", "10.1.0.0")
	if d := f.Damaged(); len(d) != 1 || d[0].Addr.String() != "10.1.0.1" {
		t.Errorf("damaged: %v", d)
	}
	f.allocate("c")
	f.reopen(boot1, "10.1.0.0/29")
	f.want("c", "10.1.0.3")
}
