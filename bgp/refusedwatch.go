package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

const (
	// refusedInterval is how often the counters of the peers are compared; that walks through no table of the agent's.
	refusedInterval = time.Second
	// refusedSettles is how long a peer that goes on talking is waited for before its table is walked.
	refusedSettles = 3 * time.Second
	// A walk through what a peer announces takes at most a tenth of the time, and none comes later than refusedMax.
	refusedDuty = 10
	refusedMax  = 30 * time.Second
)

// refusedWatch finds what peers announce and the import policy keeps out. GoBGP tells no event of it and counts accepted
// prefixes before its policy, so the counters are compared, and only where a peer has announced more than is in use, and
// has said something since the last time, is its adj-RIB-in walked.
type refusedWatch struct {
	conn     conn
	log      *slog.Logger
	desired  func() desired
	tallies  *tallies
	refusals *refusals
	marks    map[tallyKey]*refusedMark
}

// refusedMark is the state of a peer's counters.
type refusedMark struct {
	now, walked counters
	since       time.Time // now differs from walked
	next        time.Time // no walk before
}

type counters struct{ received, afterLoops, updates, gen uint64 }

// run looks until ctx ends. Failures are those of the connection, whose end the session hears of.
func (w *refusedWatch) run(ctx context.Context) {
	tick := time.NewTicker(refusedInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.log.Debug("cannot look for refused routes, trying again", "error", err)
		}
	}
}

// look compares the counters of all peers, and walks where that is due.
func (w *refusedWatch) look(ctx context.Context) error {
	d := w.desired()
	if d.config == nil {
		return nil
	}
	policy, ok := d.config.Policy.(HostPolicy)
	if !ok {
		return nil
	}
	peers, _, err := w.conn.peers(ctx, false)
	if err != nil {
		return err
	}
	seen := map[tallyKey]bool{}
	for addr, p := range peers {
		if p.GetState().GetSessionState() != api.PeerState_ESTABLISHED {
			continue
		}
		for _, a := range p.GetAfiSafis() {
			f := familyOf(a.GetConfig().GetFamily())
			if f == 0 || a.GetState().GetReceived() == 0 {
				continue
			}
			k := tallyKey{addr.WithZone(""), f}
			seen[k] = true
			now := counters{
				received: a.GetState().GetReceived(), afterLoops: a.GetState().GetAccepted(),
				updates: p.GetState().GetMessages().GetReceived().GetUpdate(), gen: d.gen,
			}
			if err := w.family(ctx, k, addr, now, d.config.ASN, policy); err != nil {
				return err
			}
		}
	}
	for _, k := range w.refusals.known() {
		if !seen[k] {
			w.store(k, refused{})
		}
	}
	for k := range w.marks {
		if !seen[k] {
			delete(w.marks, k)
		}
	}
	return nil
}

// family looks at what one peer announces of one family.
func (w *refusedWatch) family(ctx context.Context, k tallyKey, addr netip.Addr, now counters, asn uint32, policy HostPolicy) error {
	m := w.marks[k]
	if m == nil {
		m = &refusedMark{}
		w.marks[k] = m
	}
	settled := m.now == now
	m.now = now
	if w.tallies.of(k.peer, k.family).accepted == now.afterLoops {
		m.walked, m.since = now, time.Time{}
		w.store(k, refused{count: RefusedCount{Loop: now.received - now.afterLoops}})
		return nil
	}
	if m.walked == now {
		return nil // some are refused as before, or beaten by other peers'
	}
	if m.since.IsZero() {
		m.since = time.Now()
	}
	if !settled && time.Since(m.since) < refusedSettles || time.Now().Before(m.next) {
		return nil
	}
	start := time.Now()
	found, err := w.conn.refused(ctx, addr, k.family, asn, policy)
	if err != nil {
		return err
	}
	took := time.Since(start)
	m.walked, m.since, m.next = now, time.Time{}, time.Now().Add(min(refusedDuty*took, refusedMax))
	found.count.Loop = now.received - now.afterLoops
	w.log.Debug("looked for refused routes", "peer", addr, "family", k.family, "received", now.received, "took", took)
	w.store(k, found)
	return nil
}

// store replaces what is known and tells of what is new and what is over. Somebody else's announcement of our space is an
// error: two hosts may have the same addresses, and whose traffic goes where is chance.
func (w *refusedWatch) store(k tallyKey, found refused) {
	begun, over := w.refusals.set(k, found)
	for _, r := range begun {
		w.log.Error("a peer announces this host's address space, refused: somebody else uses it",
			"peer", k.peer, "prefix", r.Prefix, "own", r.Own, "origin_as", r.Origin, "detail", r.Detail)
	}
	for _, r := range over {
		w.log.Info("a peer no longer announces this host's address space", "peer", k.peer, "prefix", r.Prefix, "own", r.Own)
	}
}

// refused walks through what a peer announces, as it came. The paths are asked for in binary, which spares the speaker
// most of the work.
func (c conn) refused(ctx context.Context, peer netip.Addr, f Family, asn uint32, policy HostPolicy) (refused, error) {
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	var out refused
	stream, err := c.api.ListPath(ctx, &api.ListPathRequest{
		TableType: api.TableType_ADJ_IN, Name: peer.String(), Family: f.api(), EnableOnlyBinary: true, BatchSize: 512,
	})
	err = collect(stream, err, func(r *api.ListPathResponse) {
		d := r.GetDestination()
		pfx, err := netip.ParsePrefix(d.GetPrefix())
		if err != nil || len(d.GetPaths()) == 0 {
			return
		}
		reason, own := policy.refuses(pfx)
		switch reason {
		case OwnSpace:
			path := asPath(d.Paths[0].GetPattrsBinary())
			if slices.Contains(path, asn) {
				return // our own announcement comes back
			}
			out.count.OwnSpace++
			out.own = out.own.add(Refusal{Prefix: pfx, Reason: reason, Own: own, Origin: origin(path), Detail: relation(pfx, own)})
		case NotListed:
			out.count.NotListed++
			out.others = out.others.add(Refusal{Prefix: pfx, Reason: reason})
		}
	})
	if err != nil {
		return refused{}, fmt.Errorf("list what peer %s announces: %w", peer, err)
	}
	return out, nil
}

// relation says how a prefix touches what is ours.
func relation(p, own netip.Prefix) string {
	switch {
	case p == own:
		return "which is this host's"
	case p.Bits() > own.Bits():
		return fmt.Sprintf("which is inside this host's %s", own)
	}
	return fmt.Sprintf("which covers this host's %s", own)
}

// asPath finds the AS numbers of a path in its attributes, in order. GoBGP holds them in four octets each.
func asPath(attrs [][]byte) []uint32 {
	for _, raw := range attrs {
		a, err := gobgp.GetPathAttribute(raw)
		if err != nil {
			continue
		}
		p, ok := a.(*gobgp.PathAttributeAsPath)
		if !ok || p.DecodeFromBytes(raw) != nil {
			continue
		}
		var out []uint32
		for _, segment := range p.Value {
			out = append(out, segment.GetAS()...)
		}
		return out
	}
	return nil
}

func origin(path []uint32) uint32 {
	if len(path) == 0 {
		return 0
	}
	return path[len(path)-1]
}
