// Package history keeps what happened on this host: who had which address when, and what became of it.
package history

import (
	"net/netip"
	"time"
)

// Kind is what happened.
type Kind string

// The kinds there are. Of each, the fields of Event that matter are named beside the usual Time and Error.
const (
	Allocate Kind = "allocate" // addresses were leased: container, addresses, pool
	Attach   Kind = "attach"   // a container was attached: container, addresses, name, labels, duration
	Describe Kind = "describe" // another name, other labels than before: as Attach, without duration
	Detach   Kind = "detach"   // a container was detached: as Attach
	Release  Kind = "release"  // addresses went back to their block, to rest there: container, addresses
	Refuse   Kind = "refuse"   // an attach or a detach failed: container, duration, error, and what is known besides

	BlockClaim   Kind = "block-claim"   // a block became this host's: prefix, pool, duration
	BlockDrain   Kind = "block-drain"   // a block is given no more addresses from, and goes when the last has ended: prefix
	BlockRelease Kind = "block-release" // a block was given back: prefix
	BlockLost    Kind = "block-lost"    // a block turned out to be another host's: prefix

	Announce Kind = "announce" // prefix
	Withdraw Kind = "withdraw" // prefix, detail: why

	SessionUp   Kind = "session-up"   // a BGP session was established: peer
	SessionDown Kind = "session-down" // peer, detail: why
	BFDUp       Kind = "bfd-up"       // peer
	BFDDown     Kind = "bfd-down"     // peer, detail: why

	HostDrain   Kind = "drain"   // the host was taken out of the fabric, detail: why
	HostUndrain Kind = "undrain" // and came back
	Start       Kind = "start"   // of the agent, detail: its version. What ended while it was away is told after this, as it is found
	Stop        Kind = "stop"
	Dropped     Kind = "dropped" // events were lost, because they came faster than they could be written, or could not be written: count, detail
)

// Event is one thing that happened. Fields that do not matter for its kind are zero.
type Event struct {
	Time      time.Time // when it was over
	Kind      Kind
	Container string
	Interface string // inside the container
	Owner     string // the front-end it came by
	Addresses []netip.Addr
	Pool      string
	Name      string
	Aliases   []string
	Labels    map[string]string
	Prefix    netip.Prefix
	Peer      string
	Duration  time.Duration // that it took
	Count     uint64
	Error     string // why it failed; empty: it did not
	Detail    string
}

// Kinds are all of them.
var Kinds = []Kind{
	Allocate, Attach, Describe, Detach, Release, Refuse, BlockClaim, BlockDrain, BlockRelease, BlockLost, Announce, Withdraw,
	SessionUp, SessionDown, BFDUp, BFDDown, HostDrain, HostUndrain, Start, Stop, Dropped,
}
