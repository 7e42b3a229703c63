package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
)

// Station is told what the peers announce (BMP, RFC 7854).
type Station struct {
	Address netip.AddrPort
	View    StationView
}

// StationView says what a station sees.
type StationView string

// The views there are.
const (
	PrePolicy  StationView = "pre"   // what the peers sent
	PostPolicy StationView = "post"  // what of it was accepted
	LocalTable StationView = "local" // the routes in use
	AllViews   StationView = "all"
)

var stationPolicies = map[StationView]api.AddBmpRequest_MonitoringPolicy{
	PrePolicy: api.AddBmpRequest_PRE, PostPolicy: api.AddBmpRequest_POST,
	LocalTable: api.AddBmpRequest_LOCAL, AllViews: api.AddBmpRequest_ALL,
}

func (s Station) validate() error {
	if _, ok := stationPolicies[s.View]; !ok {
		return fmt.Errorf("station %s: view %q must be pre, post, local or all", s.Address, s.View)
	}
	if !s.Address.IsValid() || s.Address.Port() == 0 {
		return fmt.Errorf("station %s: not an address and port", s.Address)
	}
	return nil
}

// setStations brings the BMP stations up to date. GoBGP does not tell what a station sees, so that one this client did not
// add is given anew: the station then has its peers and routes told once more.
func (r *reconciler) setStations(ctx context.Context, want []Station) error {
	have, err := r.listStations(ctx)
	if err != nil {
		return err
	}
	for _, a := range have {
		known, ok := r.stations[a]
		if ok && slices.Contains(want, known) {
			continue
		}
		if err := r.call(ctx, "forget station "+a.String(), func(ctx context.Context) error {
			_, err := r.api.DeleteBmp(ctx, &api.DeleteBmpRequest{Address: a.Addr().String(), Port: uint32(a.Port())})
			return err
		}); err != nil {
			return err
		}
		delete(r.stations, a)
	}
	for _, st := range want {
		if r.stations[st.Address] == st && slices.Contains(have, st.Address) {
			continue
		}
		if err := r.call(ctx, "add station "+st.Address.String(), func(ctx context.Context) error {
			_, err := r.api.AddBmp(ctx, &api.AddBmpRequest{
				Address: st.Address.Addr().String(), Port: uint32(st.Address.Port()), Policy: stationPolicies[st.View],
				SysName: "hostfabric", SysDescr: "Hostfabric BGP speaker",
			})
			return err
		}); err != nil {
			return err
		}
		r.stations[st.Address] = st
	}
	return nil
}

func (r *reconciler) listStations(ctx context.Context) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out []netip.AddrPort
	stream, err := r.api.ListBmp(ctx, &api.ListBmpRequest{})
	err = collect(stream, err, func(resp *api.ListBmpResponse) {
		conf := resp.GetStation().GetConf()
		if a, err := netip.ParseAddr(conf.GetAddress()); err == nil {
			out = append(out, netip.AddrPortFrom(a, uint16(conf.GetPort())))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list the speaker's stations: %w", err)
	}
	return out, nil
}
