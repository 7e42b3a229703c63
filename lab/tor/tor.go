// Package tor runs the routers of a lab: FRR, BIRD, or a small one made of Hostfabric's own rooms. A router lives in a
// network namespace; top-of-rack switches and the spine differ only in their neighbours.
package tor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// Kind names a router implementation.
type Kind string

// The implementations a lab can be built with.
const (
	Embedded Kind = "embedded" // Hostfabric's own BGP and route rooms
	FRR      Kind = "frr"      // FRRouting's zebra and bgpd
	BIRD     Kind = "bird"     // BIRD 2
)

// Kinds are all implementations, in the order they are offered to a user.
var Kinds = []Kind{Embedded, FRR, BIRD}

// Node is a router to run.
type Node struct {
	Name      string // "r1t1"; the router's host name
	NS        netns.NS
	Dir       string // exists, belongs to this router alone: configuration, sockets, logs, process records
	ASN       uint32
	RouterID  netip.Addr
	Neighbors []Neighbor
	Networks  []netip.Prefix // originated here
	IPv6      bool           // the IPv4 sessions carry IPv6 prefixes too
	Restart   Restart        // of the router's BGP daemon; embedded routers know only Helper
	Env       []string       // added to the environment of the router's processes
}

// Restart is a router's part in graceful restart (RFC 4724).
type Restart string

// The parts a router can have.
const (
	Helper      Restart = ""         // keeps the routes of neighbours that restart
	Graceful    Restart = "graceful" // and tells those that open their session to it that it forwards while it restarts itself
	Unsupported Restart = "none"     // knows nothing of it
)

// Neighbor is a BGP peer on a directly connected link. One session carries every address family.
type Neighbor struct {
	Name    string // "r1h1", for descriptions and messages
	Link    string // interface towards it
	Address netip.Addr
	Local   netip.Addr // our address on the link
	Local6  netip.Addr // our IPv6 address on the link: the next hop of IPv6 prefixes; zero without IPv6
	ASN     uint32
	Passive bool // the neighbour opens the session
	// Unnumbered makes the session one by interface (RFC 8950), which the neighbour opens: neither end's address is known
	// beforehand. FRR and BIRD have that.
	Unnumbered bool
	// DefaultOnly has the neighbour told the default route and nothing else. FRR and BIRD have that, of neighbours with an address.
	DefaultOnly bool
	BFD         *BFD // nil: none
}

// Peer is what a router knows the neighbour by: its address, or the interface towards it.
func (n Neighbor) Peer() string {
	if n.Unnumbered {
		return n.Link
	}
	return n.Address.String()
}

// FiltersNeighbors reports whether some neighbour is told the default route only.
func (n Node) FiltersNeighbors() bool {
	return slices.ContainsFunc(n.Neighbors, func(nb Neighbor) bool { return nb.DefaultOnly })
}

// Driver runs routers of one kind.
type Driver interface {
	// Check says what is missing on this machine, and how to get it.
	Check() error
	// Start brings the router's processes up. They outlive the caller; sessions come up later.
	Start(ctx context.Context, n Node) (Tor, error)
	// RestartBGP ends the process that speaks BGP with SIGKILL, and what falls with it, and starts it again. The routes of the
	// namespace's kernel stand meanwhile.
	RestartBGP(ctx context.Context, n Node) error
	// Attach returns a router that an earlier process started, whether or not it still runs.
	Attach(n Node) Tor
}

// Tor is a router started by a Driver. Everything it says about routes comes from the router or the kernel of its
// namespace, never from the hosts.
type Tor interface {
	// Stop ends the router in an orderly way: peers see the sessions close.
	Stop(ctx context.Context) error
	// Kill ends the router's processes with SIGKILL. The kernel of its namespace goes on forwarding with the routes it has.
	Kill() error
	// Alive reports whether all of the router's processes run.
	Alive() bool
	// Prefixes are the destinations in the router's own table equal to or inside one of the given prefixes, sorted.
	Prefixes(ctx context.Context, within ...netip.Prefix) ([]netip.Prefix, error)
	// KernelPrefixes are the destinations in the main table of the namespace's kernel with at least one usable next hop,
	// equal to or inside one of the given prefixes, sorted. Connected routes and those of the kernel itself are left out.
	KernelPrefixes(ctx context.Context, within ...netip.Prefix) ([]netip.Prefix, error)
	// KernelRoutes are the same with their next hops, one for each route: a destination with routes of several metrics repeats.
	KernelRoutes(ctx context.Context, within ...netip.Prefix) ([]KernelRoute, error)
	// UpdatesReceived counts the UPDATE messages received from all neighbours in their current sessions; BIRD, which does not
	// count messages, gives the routes and withdrawals in them.
	UpdatesReceived(ctx context.Context) (uint64, error)
	// Established counts the sessions that are up, and all that are configured.
	Established(ctx context.Context) (up, total int, err error)
}

// KernelRoute is a route in the kernel of a router's namespace.
type KernelRoute struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr // the usable ones
}

// Options are what drivers need beside the Node.
type Options struct {
	Binary string // hostfabric-lab, run as `BINARY tor --config FILE` for an embedded router
}

// New returns the driver of a kind.
func New(kind Kind, opts Options) (Driver, error) {
	switch kind {
	case FRR:
		return frrDriver{}, nil
	case BIRD:
		return birdDriver{}, nil
	case Embedded:
		return embeddedDriver{binary: opts.Binary}, nil
	}
	return nil, fmt.Errorf("router %q is not known (one of %v)", kind, Kinds)
}
