package ipam

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Source supplies the blocks this host owns.
type Source interface {
	Name() string
	// Blocks returns the whole set as it is now, oldest first. An error says nothing about what this host owns: it goes on
	// with what it had.
	Blocks(ctx context.Context) ([]Block, error)
	// Watch returns hints that the set may have changed: on each, ask Blocks. The channel is closed when ctx ends.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// What a Grower or a Registry can fail with; the text around a sentinel names the object.
var (
	ErrSourceAway = errors.New("source of blocks cannot be reached") // nothing was changed, as far as is known, but by a Claim in parts; try again later
	ErrPoolFull   = errors.New("fabric pool is full")
	ErrTaken      = errors.New("block is claimed by another host")
	ErrOwnClaims  = errors.New("claims of this host itself")
	ErrBudget     = errors.New("prefix budget exceeded")
)

// Grower is a Source from which a host can get more blocks, and to which it gives them back. What it returns is this
// host's until Release, whatever happens to host or source meanwhile.
type Grower interface {
	Source
	// Pools are the pools that blocks can be had from.
	Pools() []Pool
	// Grow claims blocks for this host: at least one, all in one transaction. ErrPoolFull, ErrUnknownPool, ErrSourceAway,
	// or what Fits said of the best that there was.
	Grow(ctx context.Context, g Growth) ([]Block, error)
	// Claim claims just these prefixes, which the caller found in its own records, for this host. Those that it has already
	// are fine. ErrTaken if another host has one. A prefix is widened to whole base blocks. It is all or none for up to 127
	// base blocks that the host does not have yet; more may be claimed in parts, and what was claimed when a later part
	// fails stays this host's: try again.
	Claim(ctx context.Context, pool string, prefixes []netip.Prefix) ([]Block, error)
	// Release gives blocks of this host back: all of its base blocks that lie in prefixes. Those it does not have are fine.
	// A prefix is one or more whole base blocks: nothing is freed of a prefix that is smaller than one.
	Release(ctx context.Context, prefixes []netip.Prefix) error
	// Siblings tells for each prefix who has the block that it would merge with into one prefix of half the length.
	Siblings(ctx context.Context, prefixes []netip.Prefix) (map[netip.Prefix]Sibling, error)
}

// Registry is a source that knows the claims of all hosts.
type Registry interface {
	// Claims lists them, by prefix.
	Claims(ctx context.Context) ([]Claim, error)
	// ReleaseHost deletes the claims of a host that is gone for good, and returns them; only those of one installation of it
	// if id is not empty. It leaves those of the host that asks, and fails with ErrOwnClaims if id is its own.
	ReleaseHost(ctx context.Context, host, id string) ([]Claim, error)
	// Conflicts tells what about the claims contradicts that a host has one installation, and an installation is one host's:
	// for people, and empty when all is well.
	Conflicts(ctx context.Context) ([]string, error)
}

// Claim is a block that a host has claimed.
type Claim struct {
	Prefix  netip.Prefix
	Pool    string
	Host    string
	ID      string // of the host's installation: two hosts of one name do not share their claims
	Claimed time.Time
}

// Pool is a space that hosts claim their blocks in.
type Pool struct {
	Name     string
	Prefixes []netip.Prefix
	// Base is the length in bits of the blocks that are claimed, by family; 0 for a family the pool does not have.
	BaseIPv4, BaseIPv6 int
}

// Growth says what a Grow is wanted for.
type Growth struct {
	Pool string
	IPv6 bool
	// Have are the blocks of this family that the host has, of any pool and source.
	Have []netip.Prefix
	// Fits says whether the host may have these blocks besides: nil, or an ErrBudget that says what is exceeded.
	Fits func(added []netip.Prefix) error
}

// Sibling is the state of a block's sibling.
type Sibling struct {
	Prefix netip.Prefix
	State  SiblingState
	Host   string // who has claimed it, or a part of it, with SiblingTaken
}

// SiblingState is what a sibling is to a host that would grow into it.
type SiblingState string

// The states of a sibling.
const (
	SiblingFree    SiblingState = "free"
	SiblingOwn     SiblingState = "own"     // claimed by this host, all of it
	SiblingTaken   SiblingState = "taken"   // claimed by another host, at least in part
	SiblingOutside SiblingState = "outside" // not in the pool
)
