// Package rpc serves the agent's gRPC API: conversion between hostfabric.v1 messages and agent values, and nothing else.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/sandbox"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// Server answers the API.
type Server struct {
	apiv1.UnimplementedHostfabricServer
	agent      *agent.Agent
	sandboxes  *sandbox.Pool
	ledger     Ledger // nil: there is none
	resolvConf func() string
	serving    context.Context // ends when no more is to be answered
}

// Options are what is served.
type Options struct {
	Agent      *agent.Agent
	Sandboxes  *sandbox.Pool
	Ledger     Ledger        // nil: there is none
	ResolvConf func() string // path of a resolv.conf for containers, or nothing
	Log        *slog.Logger
}

// Serve answers on the listener until ctx ends, then lets running calls finish. Besides the API there is gRPC's standard health
// service, which costs next to nothing to ask: SERVING means that the agent answers.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	s := grpc.NewServer(grpc.UnaryInterceptor(logFailures(o.Log)))
	apiv1.RegisterHostfabricServer(s, &Server{agent: o.Agent, sandboxes: o.Sandboxes, ledger: o.Ledger, resolvConf: o.ResolvConf, serving: ctx})
	healthpb.RegisterHealthServer(s, health.NewServer())
	stop := context.AfterFunc(ctx, s.GracefulStop)
	defer stop()
	if err := s.Serve(l); err != nil {
		return fmt.Errorf("serve API on %s: %w", l.Addr(), err)
	}
	return nil
}

func logFailures(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		resp, err := handler(ctx, req)
		if err != nil {
			log.Warn("API call failed", "method", info.FullMethod, "err", err)
		}
		return resp, err
	}
}

// Attach implements hostfabric.v1.
func (s *Server) Attach(ctx context.Context, r *apiv1.AttachRequest) (*apiv1.AttachResponse, error) {
	addrs, err := parseAddrs(r.GetAddresses())
	if err != nil {
		return nil, rpcError(err)
	}
	ep, err := s.agent.Attach(ctx, agent.AttachRequest{
		Key: agent.Key{ContainerID: r.GetContainerId(), Interface: r.GetInterface()}, Owner: agent.OwnerAPI,
		Netns: r.GetNetns(), Pool: r.GetPool(), Addresses: addrs, MTU: int(r.GetMtu()),
		Family: ipam.Family(r.GetFamily()), Description: agent.Description{Name: r.GetName(), Aliases: r.GetAliases(), Labels: r.GetLabels()},
	})
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.AttachResponse{Endpoint: endpoint(ep), ResolvConf: s.resolvConf()}, nil
}

// Detach implements hostfabric.v1.
func (s *Server) Detach(ctx context.Context, r *apiv1.DetachRequest) (*apiv1.DetachResponse, error) {
	found, err := s.agent.Detach(ctx, agent.Key{ContainerID: r.GetContainerId(), Interface: r.GetInterface()})
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.DetachResponse{Found: found}, nil
}

// Check implements hostfabric.v1.
func (s *Server) Check(ctx context.Context, r *apiv1.CheckRequest) (*apiv1.CheckResponse, error) {
	key := agent.Key{ContainerID: r.GetContainerId(), Interface: r.GetInterface()}
	ep, err := s.agent.Check(ctx, agent.CheckRequest{Key: key, Netns: r.GetNetns()})
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.CheckResponse{Endpoint: endpoint(ep)}, nil
}

// Collect implements hostfabric.v1; it keeps to attachments made through this API.
func (s *Server) Collect(ctx context.Context, r *apiv1.CollectRequest) (*apiv1.CollectResponse, error) {
	if r.GetValid() == nil {
		return nil, status.Error(codes.InvalidArgument, "valid: the list of attachments to keep is absent; send an empty list to detach all")
	}
	var valid []agent.Key
	for _, a := range r.GetValid().GetAttachments() {
		valid = append(valid, agent.Key{ContainerID: a.GetContainerId(), Interface: a.GetInterface()})
	}
	detached, err := s.agent.Collect(ctx, agent.OwnerAPI, valid)
	if err != nil {
		return nil, rpcError(err)
	}
	resp := &apiv1.CollectResponse{}
	for _, k := range detached {
		resp.Detached = append(resp.Detached, &apiv1.Attachment{ContainerId: k.ContainerID, Interface: k.Interface})
	}
	return resp, nil
}

// ListEndpoints implements hostfabric.v1.
func (s *Server) ListEndpoints(_ context.Context, r *apiv1.ListEndpointsRequest) (*apiv1.ListEndpointsResponse, error) {
	resp := &apiv1.ListEndpointsResponse{}
	for _, ep := range s.agent.Endpoints() {
		if endpointWanted(r, ep) {
			resp.Endpoints = append(resp.Endpoints, endpoint(ep))
		}
	}
	return resp, nil
}

// GetStatus implements hostfabric.v1.
func (s *Server) GetStatus(ctx context.Context, _ *apiv1.GetStatusRequest) (*apiv1.GetStatusResponse, error) {
	return statusResponse(s.agent.Status(ctx)), nil
}

// ListPeers implements hostfabric.v1.
func (s *Server) ListPeers(ctx context.Context, _ *apiv1.ListPeersRequest) (*apiv1.ListPeersResponse, error) {
	peers, err := s.agent.Peers(ctx)
	if err != nil {
		return nil, rpcError(err)
	}
	resp, sessions := &apiv1.ListPeersResponse{}, s.agent.BFD().Sessions
	for _, p := range peers {
		out := peer(p)
		out.Bfd = bfdSession(p.Address, sessions)
		resp.Peers = append(resp.Peers, out)
	}
	return resp, nil
}

// ListBlocks implements hostfabric.v1.
func (s *Server) ListBlocks(ctx context.Context, _ *apiv1.ListBlocksRequest) (*apiv1.ListBlocksResponse, error) {
	bs := s.agent.Blocks(ctx)
	siblings := s.agent.Siblings(ctx)
	resp := &apiv1.ListBlocksResponse{Budgets: budgets(bs, s.agent.Budget())}
	for _, b := range bs {
		resp.Blocks = append(resp.Blocks, block(b, siblings[b.Block.Prefix]))
	}
	return resp, nil
}

// ReleaseBlocks implements hostfabric.v1.
func (s *Server) ReleaseBlocks(ctx context.Context, r *apiv1.ReleaseBlocksRequest) (*apiv1.ReleaseBlocksResponse, error) {
	if r.GetAll() == (len(r.GetPrefixes()) > 0) {
		return nil, status.Error(codes.InvalidArgument, "name the blocks to release, or ask for all of them")
	}
	var prefixes []netip.Prefix
	for _, text := range r.GetPrefixes() {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "block %.64q is not a prefix such as 10.64.0.0/26", text)
		}
		prefixes = append(prefixes, p)
	}
	released, err := s.agent.ReleaseBlocks(ctx, prefixes)
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.ReleaseBlocksResponse{Released: texts(released)}, nil
}

// ListClaims implements hostfabric.v1.
func (s *Server) ListClaims(ctx context.Context, r *apiv1.ListClaimsRequest) (*apiv1.ListClaimsResponse, error) {
	all, err := s.agent.Claims(ctx)
	if err != nil {
		return nil, rpcError(err)
	}
	if r.GetHost() != "" {
		all = slices.DeleteFunc(all, func(c ipam.Claim) bool { return c.Host != r.GetHost() })
	}
	return &apiv1.ListClaimsResponse{Claims: claims(all)}, nil
}

// ReleaseHost implements hostfabric.v1.
func (s *Server) ReleaseHost(ctx context.Context, r *apiv1.ReleaseHostRequest) (*apiv1.ReleaseHostResponse, error) {
	released, err := s.agent.ReleaseHost(ctx, r.GetHost(), r.GetId())
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.ReleaseHostResponse{Released: claims(released)}, nil
}

// ListLeases implements hostfabric.v1.
func (s *Server) ListLeases(_ context.Context, r *apiv1.ListLeasesRequest) (*apiv1.ListLeasesResponse, error) {
	wanted, err := leaseFilter(r)
	if err != nil {
		return nil, rpcError(err)
	}
	resp := &apiv1.ListLeasesResponse{}
	for _, l := range s.agent.Leases() {
		if wanted(l) {
			resp.Leases = append(resp.Leases, lease(l))
		}
	}
	return resp, nil
}

// ListRoutes implements hostfabric.v1.
func (s *Server) ListRoutes(_ context.Context, r *apiv1.ListRoutesRequest) (*apiv1.ListRoutesResponse, error) {
	var owners []routes.Owner
	switch owner := routes.Owner(r.GetOwner()); owner {
	case "":
	case routes.Blocks, routes.Endpoints, routes.Fabric:
		owners = append(owners, owner)
	default:
		return nil, status.Errorf(codes.InvalidArgument, "owner %.64q: want blocks, endpoints or fabric", owner)
	}
	resp := &apiv1.ListRoutesResponse{}
	for _, rt := range s.agent.Routes(owners...) {
		resp.Routes = append(resp.Routes, route(rt))
	}
	return resp, nil
}

func parseAddrs(in []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, s := range in {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%w: address %.64q is not an IPv4 or IPv6 address", agent.ErrInvalid, s)
		}
		addrs = append(addrs, a.Unmap())
	}
	return addrs, nil
}

// rpcError gives an agent error its gRPC code; the text stays the agent's.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Internal
	for _, m := range []struct {
		err  error
		code codes.Code
	}{
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{agent.ErrSourceAway, codes.Unavailable},
		{agent.ErrInvalid, codes.InvalidArgument},
		{agent.ErrNetns, codes.InvalidArgument},
		{agent.ErrNotInBlock, codes.InvalidArgument},
		{agent.ErrLinkExists, codes.AlreadyExists},
		{agent.ErrMismatch, codes.AlreadyExists},
		{agent.ErrAddressInUse, codes.AlreadyExists},
		{agent.ErrExhausted, codes.ResourceExhausted},
		{agent.ErrNotFound, codes.NotFound},
		{agent.ErrNotReady, codes.Unavailable},
		{agent.ErrDraining, codes.FailedPrecondition},
		{agent.ErrOvertaken, codes.Aborted},
		{agent.ErrStorage, codes.Unavailable},
		{history.ErrBefore, codes.OutOfRange},
	} {
		if errors.Is(err, m.err) {
			code = m.code
			break
		}
	}
	return status.Error(code, err.Error())
}
