package agent

import (
	"errors"

	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
)

// classified is an error of a room below that is one of the agent's sentinels too. Its text is the room's.
type classified struct{ err, sentinel error }

func (c classified) Error() string   { return c.err.Error() }
func (c classified) Unwrap() []error { return []error{c.sentinel, c.err} }

var sentinels = []struct{ from, to error }{
	{ipam.ErrSourceAway, ErrSourceAway}, // first: it comes along with one that it explains
	{ipam.ErrPoolFull, ErrExhausted},    // these two, because a host without a block of a pool does not know the pool
	{ipam.ErrBudget, ErrExhausted},
	{ipam.ErrUnknownPool, ErrInvalid},
	{ipam.ErrOwnClaims, ErrInvalid},
	{blocks.ErrNotClaimed, ErrNotFound},
	{ipam.ErrExhausted, ErrExhausted},
	{ipam.ErrAddressInUse, ErrAddressInUse},
	{ipam.ErrNotInBlock, ErrNotInBlock},
	{ipam.ErrMismatch, ErrMismatch},
	{ipam.ErrInvalidKey, ErrInvalid},
	{ipam.ErrInvalidWish, ErrInvalid},
	{ipam.ErrStorage, ErrStorage},
	{endpoint.ErrNotNetns, ErrNetns},
	{endpoint.ErrHostNetns, ErrNetns},
	{endpoint.ErrLinkExists, ErrLinkExists},
	{endpoint.ErrNotFound, ErrNotFound},
	{endpoint.ErrInvalid, ErrInvalid},
}

// translate makes the errors of the rooms below known to front-ends, which know the agent's sentinels alone.
func translate(err error) error {
	for _, s := range sentinels {
		if errors.Is(err, s.from) {
			return classified{err, s.to}
		}
	}
	return err
}
