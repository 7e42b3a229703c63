package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/agent/sysctl"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// Plan implements agent.Reloader.
func (r *rooms) Plan(_ context.Context, text []byte) (agent.Effects, error) {
	next, err := r.files.parse(text)
	if err != nil {
		return agent.Effects{}, mistaken(err)
	}
	e, _, err := r.effects(next)
	return e, err
}

// Reload implements agent.Reloader.
func (r *rooms) Reload(ctx context.Context) (agent.Effects, error) {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	next, err := r.files.reload()
	if err != nil {
		return agent.Effects{}, mistaken(err)
	}
	e, cfg, err := r.effects(next)
	if err != nil {
		return e, err
	}
	if cfg.ManageSysctls {
		if err := sysctl.EnableForwarding(cfg.Families()); err != nil {
			return e, err // with a family that is not forwarded, nothing at all would be announced
		}
	}
	// To its end, whoever waits for it: half a configuration is what nobody has written.
	if err := r.apply(context.WithoutCancel(ctx), cfg); err != nil {
		return e, fmt.Errorf("configuration only partly applied, reload again: %w", err)
	}
	for _, c := range e.Changes {
		r.log.Info("configuration changed", "key", c.Key, "old", c.Old, "new", c.New, "needs_restart", c.Restart)
	}
	r.log.Info("configuration reloaded", "file", r.files.path, "changes", len(e.Changes))
	return e, nil
}

// mistaken marks the operator's mistakes as such.
func mistaken(err error) error {
	if mistakes := (config.Errors)(nil); errors.As(err, &mistakes) {
		return fmt.Errorf("%w: %w", agent.ErrInvalid, err)
	}
	return err
}

// effects tells what next does to what runs, and the configuration that runs then. It fails if next cannot be applied.
func (r *rooms) effects(next *config.Config) (agent.Effects, *config.Config, error) {
	now := r.running.Load()
	var e agent.Effects
	for _, c := range config.Changes(now, next) {
		e.Changes = append(e.Changes, agent.Change(c))
	}
	cfg := now.Applied(next)
	if err := forwards(now, cfg); err != nil {
		return e, nil, err
	}
	have, would := r.feed.plan(cfg, r.routerID(cfg))
	if err := would.Validate(); err != nil {
		return e, nil, fmt.Errorf("%w: %w", agent.ErrInvalid, err)
	}
	e.Sessions = endBFD(bgp.PlanSessions(have, would), now, cfg, would.Peers)
	r.planBlocks(cfg, &e)
	for _, s := range r.table.Status(routes.Fabric) {
		if !accepted(cfg.ImportRules(), s.Route.Prefix) {
			e.Refused = append(e.Refused, s.Route.Prefix)
		} else if cfg.Routes.Metric != now.Routes.Metric {
			e.Rewritten++
		}
	}
	return e, cfg, nil
}

// forwards refuses blocks of a family that the kernel does not forward, where that is left to the operator: they would have all
// blocks withdrawn.
func forwards(now, next *config.Config) error {
	if next.ManageSysctls || sysctl.CheckForwarding(now.Families()) != nil {
		return nil
	}
	if err := sysctl.CheckForwarding(next.Families()); err != nil {
		return fmt.Errorf("%w: blocks: %w", agent.ErrInvalid, err)
	}
	return nil
}

// bfdEnds is what becomes of a session without its BFD: routers take the planned end for a failure (FRR 8.4, BIRD with `bfd on`),
// though RFC 5882 section 4.2 has them do nothing.
const bfdEnds bgp.SessionEffect = "reset by the router as BFD ends, unless BFD was taken off there first"

// endBFD adds the sessions that lose their BFD to those that change by themselves. peers are those of next.
func endBFD(changes []bgp.SessionChange, now, next *config.Config, peers []bgp.Peer) []bgp.SessionChange {
	for i, p := range next.Peers {
		had := slices.ContainsFunc(now.Peers, func(o config.Peer) bool { return o.ID() == p.ID() && o.BFD.Enabled })
		if !had || p.BFD.Enabled || peers[i].Pending != "" {
			continue
		}
		addr := peers[i].Address
		at := slices.IndexFunc(changes, func(c bgp.SessionChange) bool { return c.Peer == addr })
		switch {
		case at < 0:
			changes = append(changes, bgp.SessionChange{Peer: addr, Effect: bfdEnds})
		case changes[at].Effect == bgp.SessionUpdated:
			changes[at].Effect = bfdEnds
		}
	}
	return changes
}

func (r *rooms) planBlocks(cfg *config.Config, e *agent.Effects) {
	now, _ := r.blocks.Plan(configuredBlocks(r.running.Load()))
	then, draining := r.blocks.Plan(configuredBlocks(cfg))
	e.Draining = draining
	settled := slices.DeleteFunc(slices.Clone(then), func(p netip.Prefix) bool { return slices.Contains(draining, p) })
	for _, p := range then {
		if !slices.Contains(now, p) {
			e.Announced = append(e.Announced, p)
		}
	}
	for _, p := range now {
		if !slices.Contains(settled, p) {
			e.Withdrawn = append(e.Withdrawn, p)
		}
	}
}

func accepted(rules []config.ImportRule, p netip.Prefix) bool {
	return slices.ContainsFunc(rules, func(r config.ImportRule) bool {
		return r.Prefix.Addr().Is4() == p.Addr().Is4() && r.Prefix.Contains(p.Addr()) && p.Bits() >= r.MinLength && p.Bits() <= r.MaxLength
	})
}

// apply goes on with another configuration. Every step is repeated by the next reload.
func (r *rooms) apply(ctx context.Context, cfg *config.Config) error {
	r.running.Store(cfg)
	r.level.Set(cfg.Log.Level)
	r.uplinks.SetPeers(peerAddresses(cfg))
	r.routers.Set(peerInterfaces(cfg))
	r.learner.SetMetric(cfg.Routes.Metric)
	r.guard.SetPolicy(firewallPolicy(cfg))
	r.dns.Set(dnsSettings(cfg))
	r.tellOfZone(cfg)
	r.sandboxes.Set(sandbox.Settings(cfg.Sandboxes))
	listHosts(r.hosts, cfg)
	r.tellHosts()
	if r.kept != nil {
		r.kept.SetLimits(ledgerLimits(cfg))
	}
	// Blocks first: a peer that comes with them is to hear of all at once.
	return errors.Join(
		r.blocks.Reconfigure(ctx, blockSettings(cfg)),
		r.feed.setConfig(ctx, cfg, r.routerID(cfg)),
	)
}

// routerID is the configured BGP identifier, or the one that was found at the start.
func (r *rooms) routerID(cfg *config.Config) netip.Addr {
	if cfg.RouterID.IsValid() {
		return cfg.RouterID
	}
	return r.id
}

// reloadOnHangup reloads on every SIGHUP until ctx ends. systemd is told, for units of Type=notify-reload.
func reloadOnHangup(ctx context.Context, hangups <-chan os.Signal, a *agent.Agent, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
		}
		notify(log, daemon.SdNotifyReloading+"\n"+monotonic())
		if _, err := a.Reload(ctx); err != nil {
			log.Error("configuration not reloaded", "err", err)
		}
		notify(log, daemon.SdNotifyReady)
	}
}

// monotonic is the time that systemd orders reloads by.
func monotonic() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return ""
	}
	return fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond))
}
