package rpc

import (
	"context"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/sandbox"
)

// AcquireSandbox implements hostfabric.v1.
func (s *Server) AcquireSandbox(ctx context.Context, r *apiv1.AcquireSandboxRequest) (*apiv1.AcquireSandboxResponse, error) {
	got, err := s.sandboxes.Acquire(ctx, r.GetHolder(), agent.Description{Name: r.GetName(), Aliases: r.GetAliases(), Labels: r.GetLabels()})
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.AcquireSandboxResponse{Sandbox: s.sandbox(got)}, nil
}

// ReleaseSandbox implements hostfabric.v1.
func (s *Server) ReleaseSandbox(ctx context.Context, r *apiv1.ReleaseSandboxRequest) (*apiv1.ReleaseSandboxResponse, error) {
	found, err := s.sandboxes.Release(ctx, r.GetHolder(), r.GetId())
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.ReleaseSandboxResponse{Found: found}, nil
}

// ListSandboxes implements hostfabric.v1.
func (s *Server) ListSandboxes(context.Context, *apiv1.ListSandboxesRequest) (*apiv1.ListSandboxesResponse, error) {
	status := s.sandboxes.Status()
	resp := &apiv1.ListSandboxesResponse{Low: uint32(status.Low), High: uint32(status.High)}
	for _, sb := range s.sandboxes.List() {
		resp.Sandboxes = append(resp.Sandboxes, s.sandbox(sb))
	}
	return resp, nil
}

func (s *Server) sandbox(sb sandbox.Sandbox) *apiv1.Sandbox {
	return &apiv1.Sandbox{
		Id: sb.ID, State: string(sb.State), Holder: sb.Holder, Since: timestamp(sb.Since), Endpoint: endpoint(sb.Endpoint), ResolvConf: s.resolvConf(),
	}
}
