// Package ipam owns the addresses of a host: it carves single addresses out of the host's blocks and records each
// lease in a file before handing it out, so that no crash of the agent makes two containers share an address.
//
// # Durability
//
// A lease is one pwrite into the page cache, which outlives the process whatever kills it. It need not outlive the
// host: when the host goes down its containers go down with it, so leases written under another boot id are dropped
// anyway. That is why [Options.Fsync] is off by default; it would buy nothing but milliseconds for each container.
// It is for hosts whose containers do survive a reboot of what looks like the host (a checkpointed virtual machine
// restored with its old boot id, for instance).
//
// # Reuse
//
// Addresses never used come first, in order; then those freed, longest free first, once their quarantine has passed.
// When nothing else is left the quarantine shrinks to whatever the longest-free address has seen, and only when every
// address is leased is an allocation refused.
package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"strings"
	"time"
)

// What Allocate, Release and SetBlocks can fail with; the text around a sentinel names the object.
var (
	ErrExhausted     = errors.New("no free address")                          // every address of the family is leased or withheld
	ErrAddressInUse  = errors.New("address in use")                           // the wanted address is leased, reserved, used by something else or fenced off
	ErrNotInBlock    = errors.New("address outside the blocks to lease from") // the wanted address is not ours to give: in no block, in one of another pool, or in one that drains
	ErrInvalidKey    = errors.New("invalid allocation key")                   // container ID or interface is malformed
	ErrInvalidWish   = errors.New("invalid wanted addresses")                 // more than one of a family, of two pools, or not an address
	ErrMismatch      = errors.New("allocation exists with other values")      // the key holds something else than is wanted now
	ErrInvalidBlocks = errors.New("invalid blocks")                           // overlapping or unusable; nothing was changed
	ErrStorage       = errors.New("lease file not writable")                  // nothing was handed out or freed; the next call tries again
	ErrLocked        = errors.New("lease file is in use by another agent")
	ErrUnreadable    = errors.New("lease file not understood") // not a lease file, or another version's; it is left as it was
	ErrClosed        = errors.New("allocator is closed")
	ErrUnknownPool   = errors.New("no such pool") // no block of this host is of the pool, and no source knows it
)

// Limits of a key: what the CNI specification allows of a container ID, with a length that fits the lease file, and
// what the kernel allows of an interface name (IFNAMSIZ less its terminator).
const (
	maxContainerID = 128
	maxInterface   = 15
)

// Key names what an allocation is for: an interface of a container. Every verb is idempotent by it.
type Key struct{ ContainerID, Interface string }

func (k Key) String() string { return k.ContainerID + "/" + k.Interface }

// Validate reports how a key departs from [a-zA-Z0-9][a-zA-Z0-9_.-]* in at most 128 bytes for the container, and
// the kernel's rules in at most 15 bytes for the interface. The error is an ErrInvalidKey.
func (k Key) Validate() error {
	switch id := k.ContainerID; {
	case id == "":
		return fmt.Errorf("%w: container ID is empty", ErrInvalidKey)
	case len(id) > maxContainerID:
		return fmt.Errorf("%w: container ID has %d bytes: want at most %d", ErrInvalidKey, len(id), maxContainerID)
	case !alphanumeric(id[0]):
		return fmt.Errorf("%w: container ID %q must begin with a letter or digit", ErrInvalidKey, id)
	}
	for i := range len(k.ContainerID) {
		if c := k.ContainerID[i]; !alphanumeric(c) && c != '_' && c != '.' && c != '-' {
			return fmt.Errorf("%w: container ID %q: want only letters, digits, '_', '.' and '-'", ErrInvalidKey, k.ContainerID)
		}
	}
	switch name := k.Interface; {
	case name == "":
		return fmt.Errorf("%w: interface is empty", ErrInvalidKey)
	case len(name) > maxInterface:
		return fmt.Errorf("%w: interface %q has %d bytes: want at most %d", ErrInvalidKey, name, len(name), maxInterface)
	case name == "." || name == ".." || strings.ContainsFunc(name, notInInterface):
		return fmt.Errorf("%w: interface %q: want a name without '/', ':' and whitespace", ErrInvalidKey, name)
	}
	return nil
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// notInInterface also refuses what the kernel would take but no terminal should print.
func notInInterface(r rune) bool { return r == '/' || r == ':' || r <= ' ' || r >= 0x7f }

// Lease is an address held by a key.
type Lease struct {
	Key       Key
	Addr      netip.Addr
	Block     netip.Prefix // zero if no current block contains the address
	Pool      string       // that the block is of; empty without a block
	Allocated time.Time
}

// Request says what an allocation should be. Each family that the pool has blocks of gets one address: the wanted one,
// or any.
type Request struct {
	// Pool to take addresses from. Empty: the pool of the wanted addresses, or DefaultPool where none is wanted.
	Pool      string
	Addresses []netip.Addr // wanted addresses, at most one a family. One in quarantine is given: who names it accepts that
	Family    Family       // of the addresses; AnyFamily: all that the pool has
}

// Family restricts a Request to addresses of one family.
type Family string

// The families that a Request can be restricted to.
const (
	AnyFamily Family = ""
	OnlyIPv4  Family = "ipv4"
	OnlyIPv6  Family = "ipv6"
)

// Validate reports a family that there is not. The error is an ErrInvalidWish.
func (f Family) Validate() error {
	if f != AnyFamily && f != OnlyIPv4 && f != OnlyIPv6 {
		return fmt.Errorf("%w: family %.16q: want %s, %s, or none for all that the pool has", ErrInvalidWish, string(f), OnlyIPv4, OnlyIPv6)
	}
	return nil
}

// Has reports whether addresses like this one are wanted.
func (f Family) Has(addr netip.Addr) bool {
	return f == AnyFamily || (f == OnlyIPv4) == addr.Is4()
}

// wants is Has by number of the family.
func (f Family) wants(family int) bool { return f == AnyFamily || (f == OnlyIPv4) == (family == 0) }

// DefaultPool is the pool of blocks that name none, and of requests that name none.
const DefaultPool = "default"

// Block is a range of addresses this host owns.
type Block struct {
	Prefix   netip.Prefix
	Pool     string  // see ValidPool; empty means DefaultPool, which is what Usage says then
	Source   string  // name of the Source it came from
	Reserved []Range // parts of the block that are never handed out; they may overlap
	Draining bool    // nothing more is leased from it; what is leased stays so
}

// ValidPool reports how a name departs from [a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?
func ValidPool(name string) error {
	const most = 32
	ok := name != "" && len(name) <= most && name[0] != '-' && name[len(name)-1] != '-'
	for i := range len(name) {
		c := name[i]
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("pool %.64q: want at most %d lower-case letters, digits and '-', the latter neither first nor last", name, most)
	}
	return nil
}

// InUse is a part of a block that something else than a lease of this host uses, and which must not be handed out.
type InUse struct {
	Prefix netip.Prefix
	By     string // what uses it, for people: "address of eth0"
}

// Quarantined is an address that waits before it is handed out again.
type Quarantined struct {
	Addr  netip.Addr
	Block netip.Prefix // zero if no current block contains the address
	Since time.Time    // when it was freed; zero for one fenced off
	Until time.Time    // zero: fenced off until the host reboots, because of a damaged slot
}

// Usage counts the addresses of a block. Each counts once, so the numbers add up to Size.
type Usage struct {
	Block       Block
	Size        *big.Int
	Leased      uint64
	Quarantined uint64   // freed and resting, or fenced off
	Fenced      uint64   // of Quarantined, those fenced off until the host reboots
	Reserved    *big.Int // without those that are leased from before, or fenced off
	InUse       *big.Int // by something else; without those that are leased, fenced off or reserved
	Free        *big.Int // can be leased without cutting a rest short; 0 in a block that drains
	// Withheld are those that are none of the above, and not to be had now: the rest of a block that drains, and what
	// was never leased but in use by something else until less than a quarantine ago.
	Withheld *big.Int
}

// Damaged is a slot of the lease file that cannot be believed. Until the host reboots, the address that can be read in
// it is fenced off, and so are those that it may really have had.
type Damaged struct {
	Slot   int
	Addr   netip.Addr // as far as it can be read; the zero Addr if it cannot
	Reason string
}

// Options of Open. The zero value is usable.
type Options struct {
	Quarantine time.Duration    // rest of a freed address; 0 means DefaultQuarantine, negative none
	Fsync      bool             // see the package comment: rarely of use
	BootID     string           // "" reads the kernel's
	Now        func() time.Time // nil means time.Now
	Log        *slog.Logger     // nil discards
}

// DefaultQuarantine outlasts the packets, neighbour entries and name caches that still point at a dead container.
const DefaultQuarantine = 10 * time.Second
