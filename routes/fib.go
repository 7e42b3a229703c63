package routes

import (
	"context"
	"errors"
	"fmt"
)

// Op is what a Change does to the kernel's table.
type Op uint8

// The operations.
const (
	Add     Op = iota // install; fails with ErrExists where any route has the prefix and metric, ours or not
	Replace           // put in place of our route in one step; fails with ErrGone where there is none
	Delete            // remove our route; a missing one is success
)

// Change is one step of reconciliation.
type Change struct {
	Op    Op
	Route Route
}

func (c Change) String() string {
	return fmt.Sprintf("ip route %s %v", [...]string{"add", "replace", "del"}[c.Op], c.Route)
}

// What a FIB's Apply reports about a single change, besides the kernel's own refusals. Both mean that the table's
// view of the kernel is old, or that somebody else has the place.
var (
	ErrExists = errors.New("another route has this prefix and metric")
	ErrGone   = errors.New("the route to replace is not there")
)

// FIB is the kernel's forwarding table, as far as it is ours.
type FIB interface {
	// List returns our routes and no others, in canonical form. Links of next hops are named.
	List(ctx context.Context) ([]Route, error)
	// Apply makes the changes in order and returns one error for each, nil where it was made.
	Apply(ctx context.Context, changes []Change) []error
	// Foreign returns the routes of everybody else, in the same table.
	Foreign(ctx context.Context) ([]Foreign, error)
	// Watch hints until ctx ends. Hints coalesce.
	Watch(ctx context.Context) (Hints, error)
}

// Hints are what a FIB's Watch tells.
type Hints struct {
	Own     <-chan struct{} // List may differ for a reason other than Apply, or a change that failed may now succeed
	Foreign <-chan struct{} // Foreign may differ
}
