package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

const (
	// refusedInterval is how often the counters of the peers are compared; that walks through no table of the agent's.
	refusedInterval = time.Second
	// refusedSettles is how long a peer that goes on talking is waited for before its table is looked at.
	refusedSettles = 3 * time.Second
	// Looking for our own space takes at most a tenth of the time, and counting the rest, which waits until the peer is
	// silent, a twentieth, but neither has to wait longer than refusedMax. Of a table no larger than refusedSmall it is one.
	ownDuty, countDuty = 10, 20
	refusedMax         = time.Minute
	refusedSmall       = 5000
)

// refusedWatch finds what peers announce and the import policy keeps out. GoBGP tells no event of it and counts accepted
// prefixes before its policy, so the counters are compared, and only where a peer has announced more than is in use, and
// has said something since the last time, its adj-RIB-in is looked at: first for our own space, which takes GoBGP 0.1 s
// or so of a table of 100,000, and then, for the count of the rest, all of it.
type refusedWatch struct {
	conn     conn
	log      *slog.Logger
	desired  func() desired
	synced   func() bool // before that, the tallies are behind and the speaker has better things to do
	tallies  *tallies
	refusals *refusals
	marks    map[tallyKey]*refusedMark
}

// refusedMark is how far a peer's table has been looked at.
type refusedMark struct {
	now        counters
	since      time.Time // now differs from what was looked at
	own, count glance
}

// glance is one way of looking.
type glance struct {
	done counters  // as they were then
	next time.Time // not before
}

func (g *glance) due(now counters) bool { return g.done != now && !time.Now().Before(g.next) }

// took notes that a look is over, and has the next one wait for many times as long.
func (g *glance) took(start time.Time, now counters, duty time.Duration) time.Duration {
	took := time.Since(start)
	g.done, g.next = now, time.Now().Add(min(duty*took, refusedMax))
	return took
}

// counters tell whether a table can have changed.
type counters struct{ received, afterLoops, updates, gen uint64 }

func (s *session) refusedWatch() *refusedWatch {
	return &refusedWatch{
		conn: s.rec.conn, log: s.log, desired: s.desired, synced: func() bool { return s.Status().Synced }, tallies: s.view.tallies, refusals: s.refusals, marks: map[tallyKey]*refusedMark{},
	}
}

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
	if d.config == nil || !w.synced() {
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
	for _, c := range d.config.Peers {
		p := peers[c.Address]
		if p.GetState().GetSessionState() != api.PeerState_ESTABLISHED {
			continue
		}
		for _, a := range p.GetAfiSafis() {
			f := familyOf(a.GetConfig().GetFamily())
			if f == 0 || a.GetState().GetReceived() == 0 {
				continue
			}
			k := tallyKey{c.Address.WithZone(""), f}
			seen[k] = true
			now := counters{
				received: a.GetState().GetReceived(), afterLoops: a.GetState().GetAccepted(),
				updates: p.GetState().GetMessages().GetReceived().GetUpdate(), gen: d.gen,
			}
			if err := w.family(ctx, k, c, now, d.config.numbers(), policy); err != nil {
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
func (w *refusedWatch) family(ctx context.Context, k tallyKey, p Peer, now counters, us []uint32, policy HostPolicy) error {
	m := w.marks[k]
	if m == nil {
		m = &refusedMark{}
		w.marks[k] = m
	}
	settled := m.now == now
	m.now = now
	loops := now.received - now.afterLoops
	switch {
	case w.tallies.of(k.peer, k.family).accepted == now.afterLoops:
		m.own.done, m.count.done, m.since = now, now, time.Time{}
		w.store(k, refused{count: RefusedCount{Loop: loops}})
		return nil
	case m.own.done == now && m.count.done == now:
		m.since = time.Time{}
		return nil // some are refused as before, or beaten by other peers'
	case now.received > uint64(p.maxPrefixes()):
		return nil // it is being shut
	case m.since.IsZero():
		m.since = time.Now()
	}
	if !settled && time.Since(m.since) < refusedSettles {
		return nil
	}
	found, ours := w.refusals.of(k), ofFamily(policy.OwnSpace, k.family)
	small := now.received <= refusedSmall
	if !small && len(ours) > 0 && m.own.due(now) {
		start := time.Now()
		own, err := w.conn.refused(ctx, p, k.family, us, policy, around(ours))
		if err != nil {
			return err
		}
		found.count.OwnSpace, found.samples = own.count.OwnSpace, maps.Clone(found.samples) // others read the old ones
		if found.samples == nil {
			found.samples = map[Reason]sample{}
		}
		found.samples[OwnSpace] = own.samples[OwnSpace]
		w.log.Debug("looked for our own space", "peer", p.Address, "family", k.family, "received", now.received, "took", m.own.took(start, now, ownDuty))
	} else if small && m.count.done != now || m.count.due(now) && (settled || time.Since(m.since) > refusedMax) {
		start := time.Now()
		all, err := w.conn.refused(ctx, p, k.family, us, policy, nil)
		if err != nil {
			return err
		}
		found, m.own.done = all, now
		w.log.Debug("counted refused routes", "peer", p.Address, "family", k.family, "received", now.received, "took", m.count.took(start, now, countDuty))
	}
	found.count.Loop = loops
	w.store(k, found)
	return nil
}

// store replaces what is known and tells of what is new and what is over. Somebody else's announcement of our space is an
// error: two hosts may have the same addresses, and whose traffic goes where is chance.
func (w *refusedWatch) store(k tallyKey, found refused) {
	before := w.refusals.set(k, found)
	for _, r := range missing(found.samples[OwnSpace], before.samples[OwnSpace]) {
		w.log.Error("a peer announces this host's address space, refused: somebody else uses it",
			"peer", k.peer, "prefix", r.Prefix, "own", r.Own, "origin_as", r.Origin, "detail", r.Detail)
	}
	for _, r := range missing(before.samples[OwnSpace], found.samples[OwnSpace]) {
		w.log.Info("a peer no longer announces this host's address space", "peer", k.peer, "prefix", r.Prefix, "own", r.Own)
	}
	if bad := found.samples[NextHop]; len(bad) > 0 && before.count.NextHop == 0 {
		w.log.Warn("routes refused for their next hop", "peer", k.peer, "count", found.count.NextHop, "prefix", bad[0].Prefix, "problem", bad[0].Detail)
	}
}

// around finds everything that can touch our own space of a family, with one search for what is inside: GoBGP builds a tree
// of all it has for each.
func around(own []netip.Prefix) []*api.TableLookupPrefix {
	common := own[0]
	for _, o := range own[1:] {
		for !common.Contains(o.Addr()) || common.Bits() > o.Bits() {
			common = netip.PrefixFrom(common.Addr(), common.Bits()-1).Masked()
		}
	}
	return []*api.TableLookupPrefix{
		{Prefix: common.String(), Type: api.TableLookupPrefix_LONGER}, {Prefix: common.String(), Type: api.TableLookupPrefix_SHORTER},
	}
}

// refused looks through what a peer announces, as it came: all of it, or what the lookup finds. The paths are asked for in
// binary, which spares the speaker most of the work.
func (c conn) refused(ctx context.Context, peer Peer, f Family, us []uint32, policy HostPolicy, lookup []*api.TableLookupPrefix) (refused, error) {
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	var out refused
	stream, err := c.api.ListPath(ctx, &api.ListPathRequest{
		TableType: api.TableType_ADJ_IN, Name: peer.Address.String(), Family: f.api(), Prefixes: lookup, EnableOnlyBinary: true, BatchSize: 512,
	})
	err = collect(stream, err, func(r *api.ListPathResponse) {
		d := r.GetDestination()
		pfx, err := netip.ParsePrefix(d.GetPrefix())
		if err != nil || len(d.GetPaths()) == 0 {
			return
		}
		attrs := d.Paths[0].GetPattrsBinary()
		reason, own := policy.refuses(pfx)
		switch reason {
		case OwnSpace:
			path := asPath(attrs)
			if slices.ContainsFunc(path, func(asn uint32) bool { return slices.Contains(us, asn) }) {
				return // our own announcement comes back
			}
			out.count.OwnSpace++
			out.add(Refusal{Prefix: pfx, Reason: reason, Own: own, Origin: origin(path), Detail: relation(pfx, own)})
		case NotListed:
			out.count.NotListed++
			out.add(Refusal{Prefix: pfx, Reason: reason})
		case "":
			if hop := hopIn(attrs); peer.checkedByPolicy() && !hop.IsLinkLocalUnicast() {
				if problem := offLink(peer.Subnets, hop, peer.Address); problem != "" {
					out.count.NextHop++
					out.add(Refusal{Prefix: pfx, Reason: NextHop, Detail: problem})
				}
			}
		}
	})
	if err != nil {
		return refused{}, fmt.Errorf("list what peer %s announces: %w", peer.Address, err)
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

// hopIn finds the next hop of a path in its attributes.
func hopIn(attrs [][]byte) netip.Addr {
	for _, raw := range attrs {
		a, err := gobgp.GetPathAttribute(raw)
		if err != nil {
			continue
		}
		switch a := a.(type) {
		case *gobgp.PathAttributeNextHop:
			if a.DecodeFromBytes(raw) == nil {
				hop, _ := netip.AddrFromSlice(a.Value)
				return hop.Unmap()
			}
		case *gobgp.PathAttributeMpReachNLRI:
			if a.DecodeFromBytes(raw) == nil {
				hop, _ := netip.AddrFromSlice(a.Nexthop)
				return hop.Unmap()
			}
		}
	}
	return netip.Addr{}
}

func origin(path []uint32) uint32 {
	if len(path) == 0 {
		return 0
	}
	return path[len(path)-1]
}
