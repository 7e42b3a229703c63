package ipam

import (
	"context"
	"net/netip"
)

// Host is what a host that claims its blocks tells the others of itself.
type Host struct {
	Name      string
	ID        string       // of its installation, as in a Claim
	Addresses []netip.Addr // of its own
	Revision  int64        // the larger, the later it was told
}

// Roster is a Registry in which hosts find one another.
type Roster interface {
	Registry
	// SetAddresses has the other hosts told this host's own addresses, as soon as the source can be reached and for as long as Follow
	// runs. They stay when it ends; none are taken back.
	SetAddresses(own []netip.Addr)
	// Follow tells all claims and all hosts, again when some have changed, until ctx ends. While the source cannot be reached it
	// tells nothing.
	Follow(ctx context.Context, tell func(claims []Claim, hosts []Host)) error
}
