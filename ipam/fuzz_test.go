package ipam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"testing"
	"time"
)

func FuzzSlot(f *testing.F) {
	for _, e := range []entry{
		{state: leased, addr: netip.MustParseAddr("10.0.0.1"), key: testKey("abc"), members: 1, generation: 3, allocated: 5},
		{state: freed, addr: netip.MustParseAddr("fd00::1"), generation: 3, released: 7},
		{state: vacant},
	} {
		var buf slotBuf
		e.encode(&buf)
		f.Add(buf[:], true)
		buf[offID]++
		f.Add(buf[:], false)
	}
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		var buf slotBuf
		copy(buf[:], data)
		e, err := decode(&buf)
		if err != nil && seal {
			// Get past the checksum, to what a sound one could still hide.
			sealSlot(&buf)
			e, err = decode(&buf)
		}
		if err != nil {
			if e != (entry{addr: e.addr}) {
				t.Fatalf("an error with more than an address: %+v", e)
			}
			return
		}
		if e.state == empty {
			return
		}
		var again slotBuf
		if e.encode(&again); again != buf {
			t.Fatalf("%+v does not encode to what it was read from", e)
		}
		if e.state == leased && e.key.Validate() != nil {
			t.Fatalf("invalid key %q read", e.key)
		}
	})
}

// FuzzLeaseFile opens files of arbitrary bytes, made whole by sound checksums or not: never a panic, never an address
// twice, and what it finds is found again.
func FuzzLeaseFile(f *testing.F) {
	buf := append(header{generation: 1, bootID: boot1}.encode(), make([]byte, 4*slotSize)...)
	for i, e := range []entry{
		{state: leased, addr: netip.MustParseAddr("10.1.0.1"), key: testKey("a"), members: 1, generation: 1},
		{state: leased, addr: netip.MustParseAddr("10.1.0.2"), key: testKey("a"), members: 2, generation: 1},
		{state: freed, addr: netip.MustParseAddr("10.1.0.2"), generation: 1},
		{state: vacant},
	} {
		e.encode(slotAt(buf, i))
	}
	f.Add(buf, true, boot1)
	f.Add(buf, false, boot2)
	f.Add(buf[:len(buf)-slotSize/3], false, boot1)
	buf[headerSize+3*slotSize+offState] = byte(leased)
	f.Add(buf, true, boot1)
	f.Add(buf[:100], false, boot1)
	f.Fuzz(func(t *testing.T, data []byte, seal bool, boot string) {
		data = bytes.Clone(data)
		if seal {
			sealFile(data)
		}
		if boot == "" {
			boot = boot1
		}
		opts, err := Options{BootID: boot, Now: newClock().now}.withDefaults()
		if err != nil {
			return // a boot id that is too long
		}
		original := bytes.Clone(data)
		disk := &memDisk{data: data}
		a, err := open(disk, opts)
		if err != nil {
			if !errors.Is(err, ErrUnreadable) || !bytes.Equal(disk.data, original) {
				t.Fatalf("%v, file changed: %v", err, !bytes.Equal(disk.data, original))
			}
			return
		}
		wantFixpoint(t, a, disk, opts)
	})
}

// wantFixpoint uses an allocator, and wants the next one to find what it left.
func wantFixpoint(t *testing.T, a *Allocator, d disk, opts Options) {
	t.Helper()
	for _, step := range []func(*testing.T, *Allocator){func(*testing.T, *Allocator) {}, use, use} {
		step(t, a)
		left := snapshot(t, a)
		next, err := open(d, opts)
		if err != nil {
			t.Fatal(err)
		}
		if found := snapshot(t, next); found != left {
			t.Fatalf("opened again, there is\n%s, was\n%s", found, left)
		}
		a = next
	}
}

// FuzzContradictions opens files of sound slots that do not go together: few keys and addresses, many times over.
func FuzzContradictions(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 1, 0x81, 0, 1, 2, 1, 0, 1}, false)
	f.Add([]byte("EEEE\x01\x01\x00\x02\x01\x81\x01\x02\x01\x00\x00\t"), false)
	f.Add([]byte("\x01\x01\x04\x00\x01\x81\x01?????\x00\x00\x00\x00\x03\x00\x00\x01"), true)
	f.Add([]byte{1, 1, 0, 2, 1, 0x81, 1, 2, 1, 1, 0, 9, 0, 0, 0, 0, 3, 0, 0, 1}, true)
	f.Fuzz(func(t *testing.T, data []byte, rebooted bool) {
		buf := header{generation: 2, bootID: boot1}.encode()
		for ; len(data) >= 4 && len(buf) < headerSize+24*slotSize; data = data[4:] {
			e := entry{state: state(data[0] % 4), generation: uint64(data[3] >> 2 % 4)}
			if data[0]&0x40 != 0 {
				e.generation = 2 // as most are
			}
			if e.state == leased {
				e.key, e.members, e.allocated = testKey(string('x'+rune(data[2]%3))), data[3]%2+1, int64(data[3]>>4%2)
			}
			if e.state == freed {
				e.released = newClock().now().UnixNano() - int64(data[2])*int64(time.Second)
			}
			if e.addr = netip.AddrFrom4([4]byte{10, 1, 0, data[1] % 8}); data[1]&0x80 != 0 {
				e.addr = netip.AddrFrom16([16]byte{0xfd, 15: data[1] % 8})
			}
			if e.state == vacant {
				e = entry{state: vacant}
			}
			var slot slotBuf
			if e.state != empty {
				e.encode(&slot)
			}
			buf = append(buf, slot[:]...)
		}
		opts := Options{BootID: boot1, Now: newClock().now}
		if rebooted {
			opts.BootID = boot2
		}
		opts, err := opts.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		disk := &memDisk{data: buf}
		a, err := open(disk, opts)
		if err != nil {
			t.Fatal(err)
		}
		wantFixpoint(t, a, disk, opts)
	})
}

// sealFile gives a file a sound header and slots that are not blank sound checksums.
func sealFile(data []byte) {
	if len(data) >= headerSize {
		copy(data, magic)
		binary.LittleEndian.PutUint32(data[hdrVersion:], version)
		binary.LittleEndian.PutUint32(data[hdrSlotSize:], slotSize)
		data[hdrBootIDLen] %= maxBootID + 1
		binary.LittleEndian.PutUint32(data[hdrSum:], crc32.Checksum(data[:hdrSum], castagnoli))
	}
	for off := headerSize; off+slotSize <= len(data); off += slotSize {
		sealSlot((*slotBuf)(data[off:]))
	}
}

// sealSlot gives a slot that is not blank a sound checksum.
func sealSlot(buf *slotBuf) {
	if *buf != (slotBuf{}) {
		binary.LittleEndian.PutUint32(buf[offSum:], crc32.Checksum(buf[offState:], castagnoli))
	}
}

// snapshot is all that a restart must not change. No address may be in it twice, and all of a block counts once.
func snapshot(t *testing.T, a *Allocator) string {
	t.Helper()
	if err := a.SetBlocks(testBlocks("10.1.0.0/28", "fd00::/120")); err != nil {
		t.Fatal(err)
	}
	taken := map[netip.Addr]bool{}
	for _, l := range a.Leases() {
		if taken[l.Addr] {
			t.Fatalf("%s is leased twice", l.Addr)
		}
		taken[l.Addr] = true
	}
	for _, q := range a.Quarantined() {
		if taken[q.Addr] {
			t.Fatalf("%s is in quarantine and leased, or that twice", q.Addr)
		}
		taken[q.Addr] = true
	}
	for _, u := range a.Usage() {
		wantSum(t, u)
	}
	text := ""
	for _, l := range a.Leases() {
		text += fmt.Sprintln(l.Key, l.Addr, l.Allocated.UnixNano())
	}
	for _, d := range a.Damaged() {
		text += fmt.Sprintln("damaged", d.Slot, d.Addr) // the reason may be gone
	}
	for _, q := range a.Quarantined() {
		text += fmt.Sprintln("resting", q.Addr, q.Since.UnixNano(), q.Until.UnixNano())
	}
	return text
}

// use allocates, and releases some of what there is.
func use(t *testing.T, a *Allocator) {
	t.Helper()
	given := map[netip.Addr]bool{}
	for _, l := range a.Leases() {
		given[l.Addr] = true
	}
	for _, id := range []string{"x", "y", "z"} {
		before, held := a.Lookup(testKey(id))
		leases, err := a.Allocate(testKey(id), Request{})
		switch {
		case err != nil && !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrMismatch):
			t.Fatal(err)
		case held && err == nil && text(before) != text(leases):
			t.Fatalf("%s held %v, and was given %v", id, before, leases)
		}
		for _, l := range leases {
			if given[l.Addr] && !held {
				t.Fatalf("%s is given to %s while it is held", l.Addr, id)
			}
			given[l.Addr] = true
		}
	}
	if _, err := a.Release(testKey("y")); err != nil {
		t.Fatal(err)
	}
}

// FuzzBlock walks a block of any place and size: each address that is neither reserved nor in use once, in order.
func FuzzBlock(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint8(26), false, uint8(3), uint8(7), uint8(1))
	f.Add(^uint64(0), ^uint64(0), uint8(120), true, uint8(0), uint8(255), uint8(9))
	f.Fuzz(func(t *testing.T, hi, lo uint64, bits uint8, six bool, first, more, used uint8) {
		addr := fuzzAddr(hi, lo, six)
		p := netip.PrefixFrom(addr, addr.BitLen()-int(bits%9)).Masked()
		var all []netip.Addr
		for addr := p.Addr(); addr.IsValid() && p.Contains(addr); addr = addr.Next() {
			all = append(all, addr)
		}
		if int64(len(all)) != size(p).Int64() {
			return // IPv4 in IPv6, which no block may be
		}
		reserved := Range{all[int(first)%len(all)], all[min(len(all)-1, int(first)%len(all)+int(more))]}
		inUse := RangeOf(netip.PrefixFrom(all[int(used)%len(all)], p.Addr().BitLen()-int(used%3)))
		b := newBlock(Block{Prefix: p, Reserved: []Range{reserved}}, ranges{inUse})
		known := map[netip.Addr]int32{}
		for _, want := range all {
			if reserved.Contains(want) || inUse.Contains(want) {
				continue
			}
			if got, ok := b.fresh(known); !ok || got != want {
				t.Fatalf("%s without %s and %s: got %s, want %s", p, reserved, inUse, got, want)
			}
			known[want] = 0
		}
		if got, ok := b.fresh(known); ok {
			t.Fatalf("%s without %s and %s: %s is left", p, reserved, inUse, got)
		}
		if b.closed.size().Int64()+int64(len(known)) != size(p).Int64() {
			t.Fatalf("%s without %s and %s: %d addresses, %s closed", p, reserved, inUse, len(known), b.closed.size())
		}
	})
}
