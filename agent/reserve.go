package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// Some runtimes ask for addresses before they say what for, one at a time: Docker. A reservation is such a lease, under a key that is
// drawn for it, until an Attach takes it over. One that nobody takes is an orphan after a while, as any lease without a link.

// reservationInterface marks the keys of reservations; containers named like these would have to have an interface of the name.
const (
	reservationPrefix    = "reserved-"
	reservationInterface = "reserved"
)

// reservationGrace is how long a reservation that nobody takes up stays. Between Docker's two requests lie milliseconds.
const reservationGrace = 2 * time.Minute

func isReservation(k Key) bool {
	return k.Interface == reservationInterface && strings.HasPrefix(k.ContainerID, reservationPrefix)
}

func newReservation() Key {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	return Key{ContainerID: reservationPrefix + hex.EncodeToString(id[:]), Interface: reservationInterface}
}

// ReserveRequest asks for an address.
type ReserveRequest struct {
	Pool    string      // empty: the default pool, or that of Address
	Address netip.Addr  // wanted; the zero Addr lets the agent choose
	Family  ipam.Family // of the address; must be one
}

// Reserve leases an address for an Attach to come, which names it and says that it is Reserved. The lease is as durable as any.
func (a *Agent) Reserve(ctx context.Context, req ReserveRequest) (_ netip.Addr, err error) {
	began := time.Now()
	defer func() { a.reserving(req, began, err) }()
	want := AttachRequest{Key: newReservation(), Pool: req.Pool, Family: req.Family}
	if req.Address.IsValid() {
		want.Addresses = []netip.Addr{req.Address}
	}
	if req.Family == ipam.AnyFamily {
		return netip.Addr{}, fmt.Errorf("reserve an address: %w: of no family", ErrInvalid)
	}
	if err := ValidatePool(req.Pool); err != nil {
		return netip.Addr{}, err
	}
	if err := a.awaitReady(ctx); err != nil {
		return netip.Addr{}, err
	}
	if err := a.drain.refused(); err != nil {
		return netip.Addr{}, fmt.Errorf("reserve an address: %w", err)
	}
	a.mu.Lock()
	a.reserved[want.Key] = time.Now().Add(a.opts.ReservationGrace) // before the lease, which a reconciliation may see at once
	a.mu.Unlock()
	leases, _, err := a.lease(ctx, want)
	if err != nil {
		a.unmark(want.Key)
		return netip.Addr{}, fmt.Errorf("reserve an address: %w", translate(err))
	}
	return leases[0].Addr, nil
}

// Unreserve gives a reserved address back. It leaves addresses alone that an attachment has by now, and reports false.
func (a *Agent) Unreserve(ctx context.Context, addr netip.Addr) (found bool, err error) {
	if err := a.awaitReady(ctx); err != nil {
		return false, err
	}
	key, held := a.reservation(addr)
	if !held {
		return false, nil
	}
	unlock, err := a.keys.Lock(ctx, key)
	if err != nil {
		return false, fmt.Errorf("give %s back: %w", addr, err)
	}
	defer unlock()
	leases, err := a.leases.Release(leaseKey(key))
	if err != nil {
		return false, fmt.Errorf("give %s back: %w", addr, translate(err))
	}
	a.unmark(key)
	a.released(key, leases, "reserved, and given back")
	return len(leases) > 0, nil
}

// takeReserved makes the reservations of the addresses the lease of an attachment.
func (a *Agent) takeReserved(to Key, addrs []netip.Addr) ([]ipam.Lease, error) {
	var from []ipam.Key
	for _, addr := range addrs {
		key, held := a.reservation(addr)
		if !held {
			return nil, fmt.Errorf("%w: %s has not been reserved, or not lately", ErrNotReserved, addr)
		}
		from = append(from, leaseKey(key))
	}
	leases, err := a.leases.Transfer(leaseKey(to), from...)
	if err != nil {
		return nil, err
	}
	for _, key := range from {
		a.unmark(Key(key))
	}
	return leases, nil
}

// reservation returns the key that an address is reserved under.
func (a *Agent) reservation(addr netip.Addr) (Key, bool) {
	holder, held := a.leases.Holder(addr)
	return Key(holder), held && isReservation(Key(holder))
}

// awaited reports whether somebody may still come for a reservation.
func (a *Agent) awaited(key Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.reserved[key]
	if ok && time.Now().After(until) {
		delete(a.reserved, key)
		return false
	}
	return ok
}

func (a *Agent) unmark(key Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.reserved, key)
}
