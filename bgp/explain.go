package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
)

// SentRoute is how a peer was told of a prefix.
type SentRoute struct {
	Peer        netip.Addr
	NextHop     netip.Addr // zero: our address on the session
	Communities []uint32
}

// ReceivedRoute is a prefix as a peer announces it.
type ReceivedRoute struct {
	Prefix  netip.Prefix
	Peer    netip.Addr
	NextHop netip.Addr
	// Refusal is why it is not used: it does not pass the import policy, or has no usable next hop. Empty: it is.
	Refusal string
}

// Sent asks the speaker which established peers it has told of exactly this prefix. It walks the speaker's table, and takes 2
// s at most.
func (s *Speaker) Sent(ctx context.Context, prefix netip.Prefix) ([]SentRoute, error) {
	c, _, err := s.current()
	if err != nil {
		return nil, err
	}
	var out []SentRoute
	err = s.query(ctx, func(ctx context.Context) error {
		out = nil
		peers, _, err := c.peers(ctx, false)
		if err != nil {
			return err
		}
		for a, p := range peers {
			if p.GetState().GetSessionState() != api.PeerState_ESTABLISHED {
				continue
			}
			req := c.lookup(api.TableType_ADJ_OUT, nameOf(p), prefix, api.TableLookupPrefix_EXACT)
			if err := c.eachPath(ctx, req, func(p *api.Path) {
				sent, _ := announcementOf(p) // it was asked for by its prefix
				out = append(out, SentRoute{Peer: a, NextHop: sent.NextHop, Communities: sent.Communities})
			}); err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b SentRoute) int { return a.Peer.Compare(b.Peer) })
	return out, err
}

// Received asks the speaker for all that peers announce and that contains the prefix, longest first. It takes 2 s at most.
func (s *Speaker) Received(ctx context.Context, prefix netip.Prefix) ([]ReceivedRoute, error) {
	c, cfg, err := s.current()
	if err != nil {
		return nil, err
	}
	var out []ReceivedRoute
	err = s.query(ctx, func(ctx context.Context) (err error) {
		out, err = c.received(ctx, cfg, prefix)
		return err
	})
	slices.SortFunc(out, func(a, b ReceivedRoute) int {
		if a.Prefix.Bits() != b.Prefix.Bits() {
			return b.Prefix.Bits() - a.Prefix.Bits()
		}
		return a.Peer.Compare(b.Peer)
	})
	return out, err
}

func (c conn) received(ctx context.Context, cfg *Config, prefix netip.Prefix) ([]ReceivedRoute, error) {
	type key struct {
		prefix netip.Prefix
		peer   netip.Addr
	}
	accepted := make(map[key]bool)
	if err := c.eachPath(ctx, c.lookup(api.TableType_GLOBAL, "", prefix, api.TableLookupPrefix_SHORTER), func(p *api.Path) {
		from, err := netip.ParseAddr(p.GetNeighborIp())
		if pfx, ok := prefixOf(p); ok && err == nil {
			accepted[key{pfx, from.WithZone("")}] = true
		}
	}); err != nil {
		return nil, err
	}
	peers, _, err := c.peers(ctx, false)
	if err != nil {
		return nil, err
	}
	var out []ReceivedRoute
	view := newView(slog.New(slog.DiscardHandler), 0)
	if cfg != nil {
		view.configure(*cfg)
	}
	for a, peer := range peers {
		if err := c.eachPath(ctx, c.lookup(api.TableType_ADJ_IN, nameOf(peer), prefix, api.TableLookupPrefix_SHORTER), func(p *api.Path) {
			pfx, ok := prefixOf(p)
			if !ok {
				return
			}
			hop, problem := view.hop(pfx, legOf(p, 0))
			r := ReceivedRoute{Prefix: pfx, Peer: a, NextHop: hop, Refusal: problem}
			if !accepted[key{pfx, a.WithZone("")}] {
				r.Refusal = cfg.refusal(pfx)
			}
			out = append(out, r)
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// refusal says why the import policy does not let a prefix in, which the speaker has found.
func (c *Config) refusal(p netip.Prefix) string {
	if c == nil {
		return "this speaker has no configuration of ours yet"
	}
	host, ok := c.Policy.(HostPolicy)
	if !ok {
		return "the speaker refuses it"
	}
	for _, own := range host.OwnSpace {
		switch {
		case own == p:
			return "it is this host's own block"
		case own.Overlaps(p) && own.Bits() < p.Bits():
			return "it is a part of this host's own block " + own.String()
		case own.Overlaps(p) && p.Bits() > 0:
			return "it covers this host's own block " + own.String()
		}
	}
	for _, r := range host.Import {
		lo, hi := r.lengths()
		if r.Prefix.Overlaps(p) && p.Bits() >= lo && p.Bits() <= hi && p.Bits() >= r.Prefix.Bits() {
			return "the speaker refuses it, though the import list has it: its AS path may have this host's AS in it"
		}
	}
	return "it is not in the import list (import, import_default, fabric)"
}

// lookup is a question for one prefix in one of the speaker's tables; those of a peer need its name there.
func (conn) lookup(table api.TableType, peer string, p netip.Prefix, how api.TableLookupPrefix_Type) *api.ListPathRequest {
	return &api.ListPathRequest{
		TableType: table, Name: peer, Family: FamilyOf(p.Addr()).api(), Prefixes: []*api.TableLookupPrefix{{Prefix: p.String(), Type: how}},
	}
}

// eachPath calls each for every path of a listing.
func (c conn) eachPath(ctx context.Context, req *api.ListPathRequest, each func(*api.Path)) error {
	stream, err := c.api.ListPath(ctx, req)
	err = collect(stream, err, func(r *api.ListPathResponse) {
		for _, p := range r.GetDestination().GetPaths() {
			each(p)
		}
	})
	if err != nil {
		return fmt.Errorf("look %s up in the speaker's table: %w", req.GetPrefixes()[0].GetPrefix(), err)
	}
	return nil
}
