package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// callTimeout bounds every call: GoBGP's management calls wait for its one event loop, which can be busy with a full
// table, or stuck.
const callTimeout = 10 * time.Second

// tableTimeout bounds the calls that walk GoBGP's whole table.
const tableTimeout = time.Minute

// conn reads from the speaker.
type conn struct{ api api.GobgpApiClient }

// collect reads a listing to its end.
func collect[R any](stream interface{ Recv() (R, error) }, err error, each func(R)) error {
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		each(r)
	}
}

// global returns GoBGP's configuration, with ASN 0 when BGP was not started, and who answers.
func (c conn) global(ctx context.Context) (g *api.Global, version string, pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var md metadata.MD
	r, err := c.api.GetBgp(ctx, &api.GetBgpRequest{}, grpc.Header(&md))
	if err != nil {
		return nil, "", 0, fmt.Errorf("ask the speaker for its configuration: %w", err)
	}
	if v := md.Get(meta.Version); len(v) > 0 {
		version = v[0]
	}
	if v := md.Get(meta.PID); len(v) > 0 {
		pid, _ = strconv.Atoi(v[0]) // informational; 0 when a foreign GoBGP answers
	}
	return r.GetGlobal(), version, pid, nil
}

// peers returns the neighbors by address. advertised has GoBGP count what it announces to each, which takes it a walk
// through its table.
func (c conn) peers(ctx context.Context, advertised bool) (map[netip.Addr]*api.Peer, map[netip.Addr]meta.Down, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := c.api.ListPeer(ctx, &api.ListPeerRequest{EnableAdvertised: advertised})
	out := map[netip.Addr]*api.Peer{}
	err = collect(stream, err, func(r *api.ListPeerResponse) {
		if a, ok := peerAddr(r.GetPeer()); ok {
			out[a] = r.GetPeer()
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list the speaker's neighbors: %w", err)
	}
	downs := map[netip.Addr]meta.Down{}
	md, err := stream.Header()
	if err != nil {
		return nil, nil, fmt.Errorf("list the speaker's neighbors: %w", err)
	}
	for _, v := range md.Get(meta.PeerDown) {
		if d, ok := meta.ParseDown(v); ok {
			downs[d.Peer] = d
		}
	}
	return out, downs, nil
}

// peerStatus lists the speaker's neighbors and those configured that it does not have yet.
func (c conn) peerStatus(ctx context.Context, cfg *Config, advertised bool) ([]PeerStatus, error) {
	list, downs, err := c.peers(ctx, advertised)
	if err != nil {
		return nil, err
	}
	byAddr := make(map[netip.Addr]PeerStatus, len(list))
	for a, p := range list {
		down, ok := downs[a]
		if !ok {
			down = downs[a.WithZone("")]
		}
		byAddr[a] = statusOf(p, down)
	}
	if cfg != nil {
		_, waiting := cfg.split()
		for _, p := range slices.Concat(cfg.found(), waiting) {
			st, ok := byAddr[p.Address]
			if !ok {
				st = PeerStatus{Address: p.Address, ASN: p.ASN, State: StateIdle, LastDown: p.Pending}
			}
			if !ok && cfg.Shutdown != "" {
				st.State = StateAdminDown
			}
			st.Description = p.Description
			byAddr[p.Address] = st
		}
	}
	return slices.SortedFunc(maps.Values(byAddr), func(a, b PeerStatus) int { return a.Address.Compare(b.Address) }), nil
}

// localPaths returns what the speaker originates: of the given prefixes only, or all, for which it walks its whole table.
func (c conn) localPaths(ctx context.Context, only []netip.Prefix) (map[netip.Prefix]Announcement, error) {
	if only == nil {
		var err error
		if only, err = c.localPrefixes(ctx); err != nil {
			return nil, err
		}
	}
	out := map[netip.Prefix]Announcement{}
	for _, f := range []Family{IPv4, IPv6} {
		req := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f.api()}
		for _, p := range ofFamily(only, f) {
			req.Prefixes = append(req.Prefixes, &api.TableLookupPrefix{Prefix: p.String(), Type: api.TableLookupPrefix_EXACT})
		}
		if len(req.Prefixes) == 0 {
			continue
		}
		if err := c.listPaths(ctx, req, func(_ string, p *api.Path) {
			if a, ok := announcementOf(p); ok {
				out[a.Prefix] = a
			}
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// localPrefixes finds the prefixes the speaker originates. It asks for paths in binary, which spares the speaker most of
// the work on a full table, and reads none of that: the prefix comes as text beside it.
func (c conn) localPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	out := []netip.Prefix{}
	for _, f := range []Family{IPv4, IPv6} {
		req := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f.api(), EnableOnlyBinary: true, BatchSize: 512}
		if err := c.listPaths(ctx, req, func(dst string, _ *api.Path) {
			if p, err := netip.ParsePrefix(dst); err == nil {
				out = append(out, p)
			}
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// listPaths calls each for every local path of a listing, with the prefix as text.
func (c conn) listPaths(ctx context.Context, req *api.ListPathRequest, each func(string, *api.Path)) error {
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	stream, err := c.api.ListPath(ctx, req)
	err = collect(stream, err, func(r *api.ListPathResponse) {
		d := r.GetDestination()
		for _, p := range d.GetPaths() {
			if isLocal(p) {
				each(d.GetPrefix(), p)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("list the speaker's own routes: %w", err)
	}
	return nil
}

// appliedDigests reads the mark left by the last complete application of the policies.
func (c conn) appliedDigests(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out []string
	stream, err := c.api.ListDefinedSet(ctx, &api.ListDefinedSetRequest{DefinedType: api.DefinedType_AS_PATH})
	err = collect(stream, err, func(r *api.ListDefinedSetResponse) {
		if r.GetDefinedSet().GetName() == appliedSet {
			out = r.GetDefinedSet().GetList()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read the speaker's policy mark: %w", err)
	}
	return out, nil
}

// assigned reports whether both policies are in effect with the right default.
func (c conn) assigned(ctx context.Context, want []*api.PolicyAssignment) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found := 0
	stream, err := c.api.ListPolicyAssignment(ctx, &api.ListPolicyAssignmentRequest{Name: globalTable})
	err = collect(stream, err, func(r *api.ListPolicyAssignmentResponse) {
		a := r.GetAssignment()
		for _, w := range want {
			if a.GetDirection() == w.GetDirection() && a.GetDefaultAction() == w.GetDefaultAction() &&
				len(a.GetPolicies()) == 1 && a.GetPolicies()[0].GetName() == w.GetPolicies()[0].GetName() {
				found++
			}
		}
	})
	if err != nil {
		return false, fmt.Errorf("list the speaker's policy assignments: %w", err)
	}
	return found == len(want), nil
}
