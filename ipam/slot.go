package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// slotSize divides the page size, so that a slot never crosses a page: the kernel copies it into the page cache in
// one go, and a signal cannot cut a write in half.
const slotSize = 256

// state of a slot.
type state uint8

const (
	empty  state = iota // zeroes: not used yet
	leased              // the address belongs to the key
	freed               // the address was used, by the key if one is given
	vacant              // used once, now without an address
	// fenced marks a slot that cannot be believed. It is written only over one that can be read but contradicts others:
	// what they say must not look different once more is written.
	fenced
)

// entry is what a slot says.
type entry struct {
	state      state
	addr       netip.Addr
	key        Key
	members    uint8  // leases that the key's allocation comprises; fewer at load: it was cut short
	generation uint64 // of the boot that wrote it; see header
	allocated  int64  // Unix nanoseconds; 0 if unknown
	released   int64  // Unix nanoseconds; 0 while leased
}

// Offsets in a slot; numbers are little-endian. Bytes not named are zero.
const (
	offSum       = 0 // CRC32C of all that follows
	offState     = 4
	offFamily    = 5 // 4, 6, or 0 without an address
	offMembers   = 6
	offIDLen     = 7
	offIfLen     = 8
	offGen       = 16
	offAddr      = 24 // IPv4 uses the first four bytes
	offAllocated = 40
	offReleased  = 48
	offInterface = 56
	offID        = 72
	offEnd       = offID + maxContainerID
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type slotBuf [slotSize]byte

func (e *entry) encode(buf *slotBuf) {
	*buf = slotBuf{}
	buf[offState], buf[offMembers] = byte(e.state), e.members
	buf[offIDLen], buf[offIfLen] = byte(len(e.key.ContainerID)), byte(len(e.key.Interface))
	switch {
	case e.addr.Is4():
		a := e.addr.As4()
		buf[offFamily] = 4
		copy(buf[offAddr:], a[:])
	case e.addr.Is6():
		a := e.addr.As16()
		buf[offFamily] = 6
		copy(buf[offAddr:], a[:])
	}
	binary.LittleEndian.PutUint64(buf[offGen:], e.generation)
	binary.LittleEndian.PutUint64(buf[offAllocated:], uint64(e.allocated))
	binary.LittleEndian.PutUint64(buf[offReleased:], uint64(e.released))
	copy(buf[offInterface:offID], e.key.Interface)
	copy(buf[offID:offEnd], e.key.ContainerID)
	binary.LittleEndian.PutUint32(buf[offSum:], crc32.Checksum(buf[offState:], castagnoli))
}

// decode reads a slot. On an error only the address is set, if one can be read; it is a guess.
func decode(buf *slotBuf) (entry, error) {
	if *buf == (slotBuf{}) {
		return entry{state: empty}, nil
	}
	guess := entry{addr: decodeAddr(buf)}
	if sum := crc32.Checksum(buf[offState:], castagnoli); sum != binary.LittleEndian.Uint32(buf[offSum:]) {
		return guess, errors.New("checksum does not match")
	}
	if int(buf[offIDLen]) > maxContainerID || int(buf[offIfLen]) > maxInterface {
		return guess, errors.New("key is too long")
	}
	e := entry{
		state:      state(buf[offState]),
		addr:       guess.addr,
		members:    buf[offMembers],
		generation: binary.LittleEndian.Uint64(buf[offGen:]),
		allocated:  int64(binary.LittleEndian.Uint64(buf[offAllocated:])),
		released:   int64(binary.LittleEndian.Uint64(buf[offReleased:])),
		key: Key{
			ContainerID: string(buf[offID : offID+int(buf[offIDLen])]),
			Interface:   string(buf[offInterface : offInterface+int(buf[offIfLen])]),
		},
	}
	if err := e.check(); err != nil {
		return guess, err
	}
	var again slotBuf
	if e.encode(&again); again != *buf {
		return guess, errors.New("stray bytes")
	}
	return e, nil
}

func decodeAddr(buf *slotBuf) netip.Addr {
	switch buf[offFamily] {
	case 4:
		return netip.AddrFrom4([4]byte(buf[offAddr : offAddr+4]))
	case 6:
		return netip.AddrFrom16([16]byte(buf[offAddr : offAddr+16]))
	}
	return netip.Addr{}
}

// check reports an entry that no allocator writes.
func (e *entry) check() error {
	switch e.state {
	case leased:
		if err := e.key.Validate(); err != nil {
			return err
		}
		if e.members < 1 || e.members > families {
			return fmt.Errorf("allocation of %d leases", e.members)
		}
	case freed, fenced:
	case vacant:
		if *e != (entry{state: vacant}) {
			return errors.New("vacant, but not blank")
		}
		return nil
	default:
		return fmt.Errorf("unknown state %d", e.state)
	}
	if !e.addr.IsValid() || e.addr.Is4In6() {
		return errors.New("no address")
	}
	return nil
}
