package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/bgp"
)

// Live is what of the options a reload may change.
type Live struct {
	ASN      uint32
	RouterID netip.Addr
	Budget   blocks.Budget
	Settle   time.Duration // for which ToRs are given time to follow a change
}

// Reloader knows the configuration, which the agent does not.
type Reloader interface {
	// Plan tells what text, as the new configuration file, would do. Nothing changes. A mistake in it is an ErrInvalid.
	Plan(ctx context.Context, text []byte) (Effects, error)
	// Reload applies the configuration file as it is now. With a mistake in it, an ErrInvalid, nothing changes.
	Reload(ctx context.Context) (Effects, error)
}

// Effects are what a new configuration does.
type Effects struct {
	Changes   []Change
	Sessions  []bgp.SessionChange
	Announced []netip.Prefix // from now on
	Withdrawn []netip.Prefix // at once, or when what drains has drained
	Draining  []netip.Prefix // blocks that nothing more is leased from
	// Refused are learned routes that the new import rules no longer accept.
	Refused []netip.Prefix
	// Rewritten counts learned routes that change in the kernel, such as to another metric.
	Rewritten int
}

// Change is a key of the configuration with another value.
type Change struct {
	Key, Old, New string
	Restart       bool // takes a restart of the agent, and has no effect before
}

var errNoReloader = errors.New("this agent was started without a configuration file that it could read again")

// Plan tells what a new configuration would do.
func (a *Agent) Plan(ctx context.Context, text []byte) (Effects, error) {
	if a.opts.Reloader == nil {
		return Effects{}, errNoReloader
	}
	return a.opts.Reloader.Plan(ctx, text)
}

// Reload applies the configuration file as it is now, with the least disturbance: sessions and announcements that it does not
// change stay as they are.
func (a *Agent) Reload(ctx context.Context) (Effects, error) {
	if a.opts.Reloader == nil {
		return Effects{}, errNoReloader
	}
	if err := a.awaitReady(ctx); err != nil {
		return Effects{}, err
	}
	return a.opts.Reloader.Reload(ctx)
}
