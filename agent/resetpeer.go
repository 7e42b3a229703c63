package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostfabric/hostfabric/bgp"
)

// ResetEffect is what the reset of a peer came to.
type ResetEffect string

// The effects. Sessions come back by themselves.
const (
	ResetEnded    ResetEffect = "ended"    // the session was, with its routes
	ResetDropped  ResetEffect = "dropped"  // routes kept for a router that restarts were
	ResetStarted  ResetEffect = "started"  // a session was that had been shut
	ResetReleased ResetEffect = "released" // the peer was, which had been held down
	ResetNothing  ResetEffect = "none"     // there is no session, and attempts at one go on
)

// ResetPeer starts the session with a peer anew. name is its address, or the interface it is on; reason is told to it. A
// session that was shut, or whose peer is held down, is started.
func (a *Agent) ResetPeer(ctx context.Context, name, reason string) (netip.Addr, ResetEffect, error) {
	if err := bgp.ValidCommunication(reason); err != nil {
		return netip.Addr{}, "", fmt.Errorf("%w: reason: %w", ErrInvalid, err)
	}
	if err := a.drain.refused(); err != nil {
		return netip.Addr{}, "", fmt.Errorf("reset peer %s: %w", name, err)
	}
	peers, err := a.Peers(ctx)
	if err != nil {
		return netip.Addr{}, "", err
	}
	p, err := findPeer(peers, name)
	if err != nil {
		return netip.Addr{}, "", err
	}
	effect := ResetNothing
	switch {
	case p.State == bgp.StateHeld:
		effect, err = ResetReleased, a.speaker.Release(p.Address)
	case p.State == bgp.StatePrefixLimit || p.State == bgp.StateAdminDown:
		effect, err = ResetStarted, a.speaker.Enable(ctx, p.Address)
	case p.State == bgp.StateEstablished:
		effect, err = ResetEnded, a.speaker.Reset(ctx, p.Address, reason)
	case p.PeerRestarting:
		effect, err = ResetDropped, a.speaker.Reset(ctx, p.Address, reason)
	}
	if errors.Is(err, bgp.ErrDisconnected) {
		err = fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("reset peer %s: %w", name, err)
	}
	a.log.Info("peer reset", "peer", p.Address, "effect", effect, "reason", reason)
	return p.Address, effect, nil
}

// findPeer finds a peer by its address, for which a link-local one needs no interface if it is the only such, or by the
// interface it is on.
func findPeer(peers []bgp.PeerStatus, name string) (bgp.PeerStatus, error) {
	addr, _ := netip.ParseAddr(name)
	var found, all []string
	var peer bgp.PeerStatus
	for _, p := range peers {
		all = append(all, p.Address.String())
		if p.Address == addr || p.Address.Zone() != "" && (p.Address.Zone() == name || p.Address.WithZone("") == addr) {
			found, peer = append(found, p.Address.String()), p
		}
	}
	switch {
	case len(found) == 1:
		return peer, nil
	case len(found) > 1:
		return bgp.PeerStatus{}, fmt.Errorf("%w: several peers are %s: name one of %s", ErrInvalid, name, strings.Join(found, ", "))
	}
	list := "there are none"
	if len(all) > 0 {
		list = "the peers are " + strings.Join(all, ", ")
	}
	return bgp.PeerStatus{}, classified{fmt.Errorf("no peer %q: %s", name, list), ErrNotFound}
}
