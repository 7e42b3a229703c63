package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// source is where one path of a prefix comes from: the zero peer is the speaker itself.
type source struct {
	peer    netip.Addr // without zone, as events tell it
	problem string     // what makes its next hop unusable; empty: nothing
}

type tallyKey struct {
	peer   netip.Addr
	family Family
}

// tally counts accepted prefixes.
type tally struct{ accepted, unusable uint64 }

// tallies counts by peer the paths that are in use: the events do not tell of accepted paths that others beat. GoBGP's own
// count of accepted prefixes is from before the import policy.
type tallies struct {
	mu      sync.Mutex // guards what follows
	sources map[netip.Prefix][]source
	counts  map[tallyKey]tally
	// unusable has some of the prefixes without a usable next hop, maxRefusals at most.
	unusable map[tallyKey]map[netip.Prefix]string
	last     []source // of the prefix replaced last
}

func newTallies() *tallies {
	return &tallies{sources: map[netip.Prefix][]source{}, counts: map[tallyKey]tally{}, unusable: map[tallyKey]map[netip.Prefix]string{}}
}

func (t *tallies) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.sources)
	clear(t.counts)
	clear(t.unusable)
}

// set replaces the sources of each prefix given.
func (t *tallies) set(changes map[netip.Prefix]found) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for pfx, now := range changes {
		t.replace(pfx, now)
	}
}

// setOne replaces the sources of one prefix.
func (t *tallies) setOne(pfx netip.Prefix, now found) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.replace(pfx, now)
}

// replace keeps one slice for prefixes that follow one another with the same sources. Caller holds mu.
func (t *tallies) replace(pfx netip.Prefix, now found) {
	f := FamilyOf(pfx.Addr())
	for _, s := range t.sources[pfx] {
		t.count(f, s, ^uint64(0)) // less one
		delete(t.unusable[tallyKey{s.peer, f}], pfx)
	}
	for _, s := range now.sources {
		t.count(f, s, 1)
		t.example(tallyKey{s.peer, f}, pfx, s.problem)
	}
	if slices.Equal(now.sources, t.last) {
		now.sources = t.last
	} else {
		t.last = now.sources
	}
	if len(now.sources) == 0 {
		delete(t.sources, pfx)
	} else {
		t.sources[pfx] = now.sources
	}
}

func (t *tallies) count(f Family, s source, n uint64) {
	k := tallyKey{s.peer, f}
	c := t.counts[k]
	c.accepted += n
	if s.problem != "" {
		c.unusable += n
	}
	t.counts[k] = c
}

// of returns the count of one peer and family.
func (t *tallies) of(peer netip.Addr, f Family) tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[tallyKey{peer.WithZone(""), f}]
}

// total returns how many paths of a family are in use, the speaker's own included.
func (t *tallies) total(f Family) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var n uint64
	for k, c := range t.counts {
		if k.family == f {
			n += c.accepted
		}
	}
	return n
}

// fill sets the counts of accepted prefixes, as far as the paths in use tell.
func (t *tallies) fill(peers []PeerStatus) {
	for i := range peers {
		for j := range peers[i].Families {
			f := &peers[i].Families[j]
			c := t.of(peers[i].Address, f.Family)
			f.Accepted, f.Unusable = c.accepted, c.unusable
		}
		peers[i].Refused = append(peers[i].Refused, t.unusableOf(peers[i])...)
	}
}

// example notes a prefix without a usable next hop. Caller holds mu.
func (t *tallies) example(k tallyKey, pfx netip.Prefix, problem string) {
	if problem == "" || len(t.unusable[k]) >= maxRefusals {
		return
	}
	if t.unusable[k] == nil {
		t.unusable[k] = map[netip.Prefix]string{}
	}
	t.unusable[k][pfx] = problem
}

// unusableOf returns some of a peer's prefixes without a usable next hop.
func (t *tallies) unusableOf(p PeerStatus) []Refusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Refusal
	for _, f := range p.Families {
		for pfx, problem := range t.unusable[tallyKey{p.Address.WithZone(""), f.Family}] {
			out = append(out, Refusal{Prefix: pfx, Reason: NextHop, Detail: problem})
		}
	}
	return out
}

// recountTimeout bounds the walk through the speaker's table that recount may need.
const recountTimeout = time.Second

// recount corrects the counts of accepted prefixes where the speaker holds paths that are not in use: only then is its
// table walked, at most one second for each family. If that fails the counts are of the paths in use.
func (t *tallies) recount(ctx context.Context, c conn, peers []PeerStatus) {
	for _, f := range []Family{IPv4, IPv6} {
		var received, accepted uint64
		for _, p := range peers {
			for _, s := range p.Families {
				if s.Family == f {
					received, accepted = received+s.Received, accepted+s.Accepted
				}
			}
		}
		if received == accepted {
			continue // nothing is refused, so nothing is missing
		}
		ctx, cancel := context.WithTimeout(ctx, recountTimeout)
		counts, err := c.accepted(ctx, f, t.total(f))
		cancel()
		if err != nil || counts == nil {
			continue
		}
		for _, p := range peers {
			for j := range p.Families {
				if p.Families[j].Family == f {
					p.Families[j].Accepted = counts[p.Address.WithZone("")]
				}
			}
		}
	}
}

// accepted counts the paths of the speaker's table by peer; it returns nil when there are no more than known.
func (c conn) accepted(ctx context.Context, f Family, known uint64) (map[netip.Addr]uint64, error) {
	info, err := c.api.GetTable(ctx, &api.GetTableRequest{TableType: api.TableType_GLOBAL, Family: f.api()})
	if err != nil {
		return nil, fmt.Errorf("size of the speaker's table: %w", err)
	}
	if info.GetNumPath() <= known {
		return nil, nil
	}
	out := map[netip.Addr]uint64{}
	req := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f.api(), EnableOnlyBinary: true, BatchSize: 512}
	stream, err := c.api.ListPath(ctx, req)
	err = collect(stream, err, func(r *api.ListPathResponse) {
		for _, p := range r.GetDestination().GetPaths() {
			if a, err := netip.ParseAddr(p.GetNeighborIp()); err == nil {
				out[a.WithZone("")]++
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("count the speaker's routes: %w", err)
	}
	return out, nil
}
