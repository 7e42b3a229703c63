package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// reconciler brings one speaker to the desired state. Each step compares with what the speaker has and changes only what
// differs, so it may be repeated from the start after any failure.
type reconciler struct {
	conn
	log *slog.Logger
	// fresh: the speaker had not been configured when this connection began.
	fresh bool
	// warm: peers that come may still hold our routes of before this speaker started. They are told so (see neighborOf).
	warm bool
	// paths is what the speaker originates, once read; nil before.
	paths map[netip.Prefix]Announcement
	// found is what it originated when it was first read.
	found []netip.Prefix
	// peers is what was last configured by this reconciler.
	peers map[netip.Addr]Peer
	// stations are the BMP stations this reconciler added.
	stations map[netip.AddrPort]Station
	// edit is held while peers are added and deleted.
	edit *sync.Mutex
	// given is which peers the speaker has, as far as known: they are the ones whose messages it gets.
	given map[netip.Addr]bool
	// admitted is when each peer was added, or first seen, in a warm restart.
	admitted map[netip.Addr]time.Time
}

// admitWait is how long a warm restart waits for one peer before it adds the next one anyway.
const admitWait = 3 * time.Second

// global starts BGP, or restarts it where the identity changed: GoBGP cannot change its AS number, router id or port while
// it runs. No WatchEvent stream may be open when BGP has to stop: the two can deadlock in GoBGP v3.
func (r *reconciler) global(ctx context.Context, c Config) error {
	have, _, _, err := r.conn.global(ctx)
	if err != nil {
		return err
	}
	want := globalOf(c)
	if sameGlobal(have, want) {
		return nil
	}
	if have.GetAsn() != 0 {
		r.log.Warn("restarting BGP: its identity changed", "asn", want.GetAsn(), "router_id", want.GetRouterId())
		if err := r.stop(ctx); err != nil {
			return err
		}
		r.warm = false
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := r.api.StartBgp(ctx, &api.StartBgpRequest{Global: want}); err != nil {
		// One of several listeners may be open already and would be in the way of the next attempt.
		_, stopErr := r.api.StopBgp(ctx, &api.StopBgpRequest{})
		return errors.Join(fmt.Errorf("start BGP as AS%d: %w", c.ASN, err), stopErr)
	}
	return nil
}

// stop deletes the peers one by one first: StopBgp waits for their ends itself, at times for ever.
func (r *reconciler) stop(ctx context.Context) error {
	have, _, err := r.conn.peers(ctx, false)
	if err != nil {
		return err
	}
	for a, p := range have {
		if err := r.deletePeer(ctx, a, nameOf(p)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := r.api.StopBgp(ctx, &api.StopBgpRequest{}); err != nil {
		return fmt.Errorf("stop BGP: %w", err)
	}
	return nil
}

// routes sets policies and paths, in the order that neither leaks nor interrupts: new prefixes are allowed, then
// announced, and only then are old ones withdrawn. GoBGP's soft reset never withdraws what a policy newly rejects;
// deleting the path does.
func (r *reconciler) routes(ctx context.Context, c Config, d desired) error {
	set := d.set
	if !d.announced {
		// Not said yet, by an agent that just started: what the speaker announces stays.
		have, err := r.localPaths(ctx, nil)
		if err != nil {
			return err
		}
		set = slices.SortedFunc(maps.Values(have), func(a, b Announcement) int { return a.Prefix.Compare(b.Prefix) })
	}
	if err := r.policies(ctx, buildPolicies(c, set)); err != nil {
		return err
	}
	var only []netip.Prefix // all of the table the first time, then just what is to be there
	if r.paths != nil {
		only = make([]netip.Prefix, 0, len(set)+len(r.paths))
		for _, a := range set {
			only = append(only, a.Prefix)
		}
		for p := range r.paths {
			only = append(only, p)
		}
	}
	have, err := r.localPaths(ctx, only)
	if err != nil {
		return err
	}
	if r.paths == nil {
		r.found = slices.SortedFunc(maps.Keys(have), netip.Prefix.Compare)
	}
	r.paths = have
	if r.losesIPv6(c) {
		for p, a := range have {
			if p.Addr().Is6() && !a.NextHop.IsValid() {
				if err := r.withdraw(ctx, p); err != nil {
					return err
				}
			}
		}
	}
	add, del := diffAnnouncements(have, set)
	for _, a := range add {
		if err := r.call(ctx, "announce "+a.Prefix.String(), func(ctx context.Context) error {
			_, err := r.api.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: a.path()})
			return err
		}); err != nil {
			return err
		}
		r.paths[a.Prefix] = a
	}
	for _, p := range del {
		if err := r.withdraw(ctx, p); err != nil {
			return err
		}
	}
	if len(add)+len(del) > 0 {
		r.log.Info("announcements changed", "announced", len(set), "added", len(add), "withdrawn", len(del))
	}
	return nil
}

// losesIPv6 reports whether a peer is to get no IPv6 prefix any more for want of a next hop. Those that it has are taken back
// by deleting the paths, for a moment: what a policy newly rejects is not withdrawn.
func (r *reconciler) losesIPv6(c Config) bool {
	return slices.ContainsFunc(c.found(), func(p Peer) bool { return r.peers[p.Address].NextHop6.IsValid() && !p.NextHop6.IsValid() })
}

func (r *reconciler) withdraw(ctx context.Context, p netip.Prefix) error {
	err := r.call(ctx, "withdraw "+p.String(), func(ctx context.Context) error {
		path := withdrawal(p)
		_, err := r.api.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Family: path.Family, Path: path})
		return err
	})
	if err == nil {
		delete(r.paths, p)
	}
	return err
}

// policies replaces all policies in one step where anything differs. SetPolicies keeps the assignments, by name.
func (r *reconciler) policies(ctx context.Context, want policySet) error {
	have, err := r.appliedDigests(ctx)
	if err != nil {
		return err
	}
	mark := want.mark()
	if slices.Equal(have, mark) {
		if ok, err := r.assigned(ctx, want.assignments); ok || err != nil {
			return err
		}
	}
	if err := r.call(ctx, "set policies", func(ctx context.Context) error {
		_, err := r.api.SetPolicies(ctx, want.request)
		return err
	}); err != nil {
		return err
	}
	for _, a := range want.assignments {
		if err := r.call(ctx, "assign policy "+a.Policies[0].Name, func(ctx context.Context) error {
			_, err := r.api.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: a})
			return err
		}); err != nil {
			return err
		}
	}
	if err := r.reapply(ctx, have, want); err != nil {
		return err
	}
	return r.call(ctx, "mark policies", func(ctx context.Context) error {
		set := &api.DefinedSet{DefinedType: api.DefinedType_AS_PATH, Name: appliedSet, List: mark}
		_, err := r.api.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set, Replace: true})
		return err
	})
}

// reapply runs routes already exchanged through what changed of the policies.
func (r *reconciler) reapply(ctx context.Context, had []string, want policySet) error {
	peers, _, err := r.conn.peers(ctx, false)
	if err != nil || len(peers) == 0 {
		return err
	}
	for a, p := range peers {
		if i, ok := want.imports[a]; ok && !slices.Contains(had, i) {
			if err := r.softReset(ctx, nameOf(p), api.ResetPeerRequest_IN); err != nil {
				return err
			}
		}
		if e, ok := want.exports[a]; ok && !slices.Contains(had, e) {
			if err := r.softReset(ctx, nameOf(p), api.ResetPeerRequest_OUT); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reconciler) softReset(ctx context.Context, address string, dir api.ResetPeerRequest_SoftResetDirection) error {
	return r.call(ctx, "apply policies to the routes of "+address, func(ctx context.Context) error {
		_, err := r.api.ResetPeer(ctx, &api.ResetPeerRequest{Address: address, Soft: true, Direction: dir})
		return err
	})
}

// neighbors brings the peers up to date. One that is as it should be is not touched.
func (r *reconciler) neighbors(ctx context.Context, c Config) error {
	r.edit.Lock()
	defer r.edit.Unlock()
	if c.Shutdown != "" {
		return r.shutdown(ctx, c)
	}
	have, _, err := r.conn.peers(ctx, false)
	if err == nil && r.peers == nil { // later, one that is down is so by the guard
		err = r.revive(ctx, have)
	}
	if err != nil {
		return err
	}
	for a := range have {
		r.given[a] = true
	}
	want := make(map[netip.Addr]Peer, len(c.Peers))
	for _, p := range c.found() {
		want[p.Address] = p
	}
	for a, p := range have {
		if w, ok := want[a]; !ok || w.name() != nameOf(p) {
			if err := r.deletePeer(ctx, a, nameOf(p)); err != nil {
				return err
			}
			delete(have, a)
		}
	}
	for _, p := range c.found() {
		cur, ok := have[p.Address]
		n := neighborOf(p, c, r.warm)
		switch {
		case !ok && r.warm: // see admit
		case !ok:
			err = r.addPeer(ctx, n)
		case longLivedOf(cur) != longLivedOf(n): // GoBGP takes it over from a new peer only
			r.log.Info("peer configuration changed", "peer", p.Address)
			err = r.renewPeer(ctx, p, c)
		case shapeOf(cur) != shapeOf(n) || r.localAddressChanged(p):
			n.GracefulRestart.LocalRestarting = false
			r.log.Info("peer configuration changed", "peer", p.Address)
			err = r.call(ctx, "update peer "+p.Address.String(), func(ctx context.Context) error {
				_, err := r.api.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: n})
				if err == nil && cur.GetState().GetAdminState() == api.PeerState_PFX_CT {
					_, err = r.api.EnablePeer(ctx, &api.EnablePeerRequest{Address: p.name()})
				}
				return err
			})
		}
		if err != nil {
			return err
		}
	}
	r.peers = want
	if r.warm {
		return r.admit(ctx, c)
	}
	return nil
}

func (r *reconciler) localAddressChanged(p Peer) bool {
	old, ok := r.peers[p.Address]
	return ok && old.LocalAddress != p.LocalAddress
}

func (r *reconciler) addPeer(ctx context.Context, n *api.Peer) error {
	if a, ok := peerAddr(n); ok {
		r.given[a] = true // from now on, whatever becomes of the call
	}
	return r.call(ctx, "add peer "+n.Conf.NeighborAddress, func(ctx context.Context) error {
		_, err := r.api.AddPeer(ctx, &api.AddPeerRequest{Peer: n})
		return err
	})
}

func (r *reconciler) deletePeer(ctx context.Context, a netip.Addr, name string) error {
	err := r.call(ctx, "delete peer "+name, func(ctx context.Context) error {
		_, err := r.api.DeletePeer(ctx, &api.DeletePeerRequest{Address: name})
		return err
	})
	if err == nil {
		delete(r.given, a)
	}
	return err
}

// renewPeer deletes a peer, with its routes, and adds it again.
func (r *reconciler) renewPeer(ctx context.Context, p Peer, c Config) error {
	if err := r.deletePeer(ctx, p.Address, p.name()); err != nil {
		return err
	}
	return r.addPeer(ctx, neighborOf(p, c, false))
}

// admit adds the peers of a warm restart one after the other. GoBGP v3 keeps one restart for all of them: as soon as a
// peer has said all it knows it clears the Restart State bit of every peer configured, and one whose OPEN follows
// drops our routes. So the next peer is added, with the bit, when the one before is through, or does not come up in
// admitWait. One that lost its bit that way is added anew. The warm restart ends when all are through.
func (r *reconciler) admit(ctx context.Context, c Config) error {
	have, _, err := r.conn.peers(ctx, false)
	if err != nil {
		return err
	}
	waiting := len(c.found()) < len(c.Peers) // those not found yet may hold our routes as well
	for _, p := range c.found() {
		cur, ok := have[p.Address]
		st, restarting := cur.GetState(), cur.GetGracefulRestart().GetLocalRestarting()
		up := st.GetSessionState() == api.PeerState_ESTABLISHED
		switch {
		case ok && (up && !restarting || st.GetAdminState() != api.PeerState_UP):
			continue
		case ok && !restarting && !r.fresh:
			continue // it was through once, or is none of the restart's
		case ok && !up && !restarting && st.GetSessionState() <= api.PeerState_ACTIVE:
			if err := r.deletePeer(ctx, p.Address, p.name()); err != nil {
				return err
			}
			ok = false
		}
		waiting = true
		if _, known := r.admitted[p.Address]; !ok || !known {
			r.admitted[p.Address] = time.Now()
		}
		if !ok {
			if err := r.addPeer(ctx, neighborOf(p, c, true)); err != nil {
				return err
			}
		}
		if time.Since(r.admitted[p.Address]) < admitWait {
			return nil
		}
	}
	r.warm = waiting
	return nil
}

func (r *reconciler) call(ctx context.Context, what string, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := fn(ctx); err != nil {
		return fmt.Errorf("speaker: %s: %w", what, err)
	}
	return nil
}
