package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/ipam"
)

// lease gets the addresses of an attachment, and says whether it held them before. Where there is none left it waits for the
// host to grow. An address that turns out to be used by something else is set aside, with all that this has, and another
// one taken.
func (a *Agent) lease(ctx context.Context, req AttachRequest) (leases []ipam.Lease, held bool, err error) {
	key := leaseKey(req.Key)
	_, held = a.leases.Lookup(key)
	_, attached := a.Endpoint(req.Key)
	if req.Reserved && !held {
		leases, err = a.takeReserved(req.Key, req.Addresses)
		if err == nil {
			a.leased(req, leases)
		}
		return leases, false, err
	}
	for {
		opened := a.blocks.Opened()
		leases, err = a.leases.Allocate(key, ipam.Request{Pool: req.Pool, Addresses: req.Addresses, Family: req.Family})
		if errors.Is(err, ipam.ErrExhausted) || errors.Is(err, ipam.ErrUnknownPool) {
			if err := a.awaitGrowth(ctx, a.poolOf(req), opened, err); err != nil {
				return nil, held, err
			}
			continue
		}
		// A lease of before a crash may never have been looked at; the address of an endpoint is in use by itself.
		if attached && err == nil && !held {
			a.leased(req, leases)
		}
		if err != nil || attached {
			return leases, held, err
		}
		use, err := a.usedByOther(ctx, leases)
		if err != nil {
			if !held {
				_, releaseErr := a.leases.Release(key)
				err = errors.Join(err, releaseErr)
			}
			return nil, held, err
		}
		if use == nil {
			if !held {
				a.leased(req, leases)
			}
			return leases, held, nil
		}
		a.log.Warn("address is in use by something else and is not handed out", "addresses", use.Prefix, "by", use.By)
		if err := a.leases.Reject(key, *use); err != nil {
			return nil, held, err
		}
		if held {
			a.released(req.Key, leases, "in use by something else: "+use.By)
		}
		held = false
	}
}

// leased tells of new leases.
func (a *Agent) leased(req AttachRequest, leases []ipam.Lease) {
	e := leaseEvent(history.Allocate, req.Key, leases)
	e.Owner = req.Owner
	switch {
	case req.Reserved:
		e.Detail = "as reserved before"
	case isReservation(req.Key):
		e.Detail = "reserved for an attach to come"
	}
	a.tell(e)
}

// poolOf is the pool that a request takes its addresses from.
func (a *Agent) poolOf(req AttachRequest) string {
	if req.Pool == "" && len(req.Addresses) > 0 {
		return a.leases.PoolOf(req.Addresses[0])
	}
	return req.Pool
}

func (a *Agent) awaitGrowth(ctx context.Context, pool string, opened uint64, exhausted error) error {
	switch err := a.blocks.Await(ctx, pool, opened); {
	case errors.Is(err, blocks.ErrNoGrowth):
		return exhausted
	case err != nil:
		return fmt.Errorf("%w; %w", exhausted, err)
	}
	return nil
}

// usedByOther looks a last time, for what has come since the last reconciliation.
func (a *Agent) usedByOther(ctx context.Context, leases []ipam.Lease) (*ipam.InUse, error) {
	for _, l := range leases {
		if !l.Block.IsValid() {
			continue
		}
		use, err := a.wirer.UsedBy(ctx, l.Addr, l.Block)
		if err != nil {
			return nil, fmt.Errorf("see whether %s is in use: %w", l.Addr, err)
		}
		if use.By != "" {
			return &ipam.InUse{Prefix: use.Prefix, By: use.By}, nil
		}
	}
	return nil, nil
}
