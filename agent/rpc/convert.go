package rpc

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

func endpoint(ep agent.Endpoint) *apiv1.Endpoint {
	return &apiv1.Endpoint{
		ContainerId: ep.ContainerID, Interface: ep.Interface, Netns: ep.Netns, HostInterface: ep.HostInterface,
		Mac: ep.MAC, HostMac: ep.HostMAC, Addresses: texts(ep.Addresses), Gateways: texts(ep.Gateways), Mtu: uint32(ep.MTU),
		Name: ep.Name, Aliases: ep.Aliases, Labels: ep.Labels, Owner: ep.Owner,
	}
}

func statusResponse(s agent.Status) *apiv1.GetStatusResponse {
	out := &apiv1.GetStatusResponse{
		Host: s.Host, Version: s.Version, Started: timestamppb.New(s.Started), Ready: len(s.Problems) == 0, Problems: s.Problems,
		Asn: s.ASN, RouterId: s.RouterID.String(),
		Speaker: &apiv1.SpeakerStatus{
			Connected: s.Speaker.Connected, Version: s.Speaker.Version, Pid: int32(s.Speaker.PID), Since: timestamp(s.Speaker.Since),
			Crashes: s.Speaker.Crashes,
		},
		PeersEstablished: uint32(s.PeersEstablished()), PeersTotal: uint32(len(s.Peers)),
		Endpoints: uint32(s.Endpoints), Leases: uint32(s.Leases), Announced: texts(s.Announced),
		BudgetIpv4: uint32(s.BudgetIPv4), BudgetIpv6: uint32(s.BudgetIPv6),
		RoutesInstalled: uint32(s.RoutesInstalled), RoutesFailed: uint32(s.RoutesFailed), Mtu: uint32(s.MTU),
		RoutesRefused: uint32(s.RoutesRefused),
	}
	if b := s.BFD; b.Wanted {
		out.Bfd = &apiv1.BFDProcess{
			Connected: b.Connected, Version: b.Version, Pid: int32(b.PID), SessionsUp: uint32(b.Up()), SessionsTotal: uint32(len(b.Sessions)),
		}
	}
	if d := s.DNS; d.Enabled {
		out.Dns = &apiv1.DNSStatus{
			Origin: d.Origin, Listeners: texts(d.Listeners), Names: uint32(d.Names), Forwards: d.Forwards, Upstreams: texts(d.Upstreams),
		}
	}
	return out
}

func peer(p bgp.PeerStatus) *apiv1.Peer {
	out := &apiv1.Peer{
		Address: p.Address.WithZone("").String(), Interface: p.Address.Zone(), Asn: p.ASN, State: p.State, Description: p.Description,
		HoldTimeSeconds: uint32(p.HoldTime / time.Second), Reason: p.LastDown,
		UpdatesSent: uint32(p.Sent.Update), UpdatesReceived: uint32(p.Received.Update),
	}
	if p.State == bgp.StateEstablished {
		out.Uptime = durationpb.New(time.Since(p.Since).Truncate(time.Second))
		out.Reason = ""
	}
	for _, f := range p.Families {
		out.PrefixesReceived += uint32(f.Received)
		out.PrefixesAccepted += uint32(f.Accepted)
		out.PrefixesAdvertised += uint32(f.Advertised)
		for reason, n := range f.RefusedBy() {
			out.PrefixesRefused += uint32(n)
			out.RefusedCounts = append(out.RefusedCounts, &apiv1.RefusedCount{Family: f.Family.String(), Reason: string(reason), Prefixes: n})
		}
	}
	for _, r := range p.Refused {
		out.Refusals = append(out.Refusals, &apiv1.Refusal{
			Prefix: r.Prefix.String(), Reason: string(r.Reason), Detail: r.Detail, Own: prefix(r.Own), OriginAsn: r.Origin,
		})
	}
	return out
}

// bfdSession is the BFD session with a peer; nil if there is none.
func bfdSession(peer netip.Addr, all []bfd.Status) *apiv1.BFDSession {
	i := slices.IndexFunc(all, func(s bfd.Status) bool { return s.Peer == peer })
	if i < 0 {
		return nil
	}
	s := all[i]
	return &apiv1.BFDSession{
		State: s.State.String(), RemoteState: s.RemoteState.String(), Since: timestamp(s.Since),
		Interval: durationpb.New(s.TxInterval), DetectionTime: durationpb.New(s.DetectionTime), Downs: s.Downs, LastDown: s.LastDown,
	}
}

func block(b agent.Block, sibling ipam.Sibling) *apiv1.Block {
	return &apiv1.Block{
		Prefix: b.Block.Prefix.String(), Source: b.Block.Source, Pool: b.Block.Pool, State: b.State,
		Size: b.Size.String(), Leased: uint32(b.Leased), Quarantined: uint32(b.Quarantined), Reserved: b.Reserved.String(),
		InUse: b.InUse.String(), Free: b.Free.String(), Announced: b.Announced, Cover: prefix(b.Cover),
		Sibling: prefix(sibling.Prefix), SiblingState: string(sibling.State), SiblingHost: sibling.Host,
	}
}

// budgets counts the prefixes that the covers of blocks take.
func budgets(bs []agent.Block, limit blocks.Budget) []*apiv1.Budget {
	covers := make(map[netip.Prefix]bool)
	for _, b := range bs {
		if b.Cover.IsValid() {
			covers[b.Cover] = true
		}
	}
	ipv4, ipv6 := &apiv1.Budget{Family: "ipv4", Limit: uint32(limit.IPv4)}, &apiv1.Budget{Family: "ipv6", Limit: uint32(limit.IPv6)}
	for p := range covers {
		if p.Addr().Is4() {
			ipv4.Prefixes++
		} else {
			ipv6.Prefixes++
		}
	}
	return []*apiv1.Budget{ipv4, ipv6}
}

func claims(in []ipam.Claim) []*apiv1.Claim {
	out := make([]*apiv1.Claim, len(in))
	for i, c := range in {
		out[i] = &apiv1.Claim{Prefix: c.Prefix.String(), Pool: c.Pool, Host: c.Host, Id: c.ID, Claimed: timestamp(c.Claimed)}
	}
	return out
}

func lease(l agent.Lease) *apiv1.Lease {
	return &apiv1.Lease{
		Address: l.Addr.String(), ContainerId: l.Key.ContainerID, Interface: l.Key.Interface, Block: prefix(l.Block), Pool: l.Pool,
		Allocated: timestamp(l.Allocated), State: l.State, HostInterface: l.HostInterface,
	}
}

func route(st routes.Status) *apiv1.Route {
	out := &apiv1.Route{
		Prefix: st.Route.Prefix.String(), Owner: string(st.Owner), Kind: st.Route.Kind.String(),
		State: st.State.String(), Metric: st.Route.Metric,
	}
	if st.Err != nil {
		out.Error = st.Err.Error()
	}
	if st.Route.Source.IsValid() {
		out.Source = st.Route.Source.String()
	}
	for _, nh := range st.Route.NextHops {
		hop := &apiv1.NextHop{Interface: nh.Link}
		if nh.Addr.IsValid() {
			hop.Address = nh.Addr.String()
		}
		out.NextHops = append(out.NextHops, hop)
	}
	return out
}

// texts gives values their text form.
func texts[T fmt.Stringer](in []T) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = v.String()
	}
	return out
}

func prefix(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
