package main

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// fakeAgent answers every call with what it was given, and keeps what it was asked.
type fakeAgent struct {
	apiv1.UnimplementedHostfabricServer
	answer proto.Message
	err    error
	hang   bool // until the caller gives up
	asked  proto.Message
}

// serveFake serves the fake and returns its socket.
func serveFake(t *testing.T, f *fakeAgent) string { return serveAPI(t, f) }

func serveAPI(t *testing.T, f apiv1.HostfabricServer) string {
	t.Helper()
	socket := filepath.Join(shortDir(t), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	apiv1.RegisterHostfabricServer(s, f)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func reply[Resp proto.Message](ctx context.Context, f *fakeAgent, req proto.Message) (Resp, error) {
	f.asked = req
	if f.hang {
		<-ctx.Done()
		f.err = ctx.Err()
	}
	resp, _ := f.answer.(Resp)
	return resp, f.err
}

func (f *fakeAgent) Attach(ctx context.Context, r *apiv1.AttachRequest) (*apiv1.AttachResponse, error) {
	return reply[*apiv1.AttachResponse](ctx, f, r)
}

func (f *fakeAgent) Detach(ctx context.Context, r *apiv1.DetachRequest) (*apiv1.DetachResponse, error) {
	return reply[*apiv1.DetachResponse](ctx, f, r)
}

func (f *fakeAgent) AcquireSandbox(ctx context.Context, r *apiv1.AcquireSandboxRequest) (*apiv1.AcquireSandboxResponse, error) {
	return reply[*apiv1.AcquireSandboxResponse](ctx, f, r)
}

func (f *fakeAgent) ReleaseSandbox(ctx context.Context, r *apiv1.ReleaseSandboxRequest) (*apiv1.ReleaseSandboxResponse, error) {
	return reply[*apiv1.ReleaseSandboxResponse](ctx, f, r)
}

func (f *fakeAgent) ListSandboxes(ctx context.Context, r *apiv1.ListSandboxesRequest) (*apiv1.ListSandboxesResponse, error) {
	return reply[*apiv1.ListSandboxesResponse](ctx, f, r)
}

func (f *fakeAgent) ListEndpoints(ctx context.Context, r *apiv1.ListEndpointsRequest) (*apiv1.ListEndpointsResponse, error) {
	return reply[*apiv1.ListEndpointsResponse](ctx, f, r)
}

func (f *fakeAgent) GetStatus(ctx context.Context, r *apiv1.GetStatusRequest) (*apiv1.GetStatusResponse, error) {
	return reply[*apiv1.GetStatusResponse](ctx, f, r)
}

func (f *fakeAgent) ListPeers(ctx context.Context, r *apiv1.ListPeersRequest) (*apiv1.ListPeersResponse, error) {
	return reply[*apiv1.ListPeersResponse](ctx, f, r)
}

func (f *fakeAgent) ListBlocks(ctx context.Context, r *apiv1.ListBlocksRequest) (*apiv1.ListBlocksResponse, error) {
	return reply[*apiv1.ListBlocksResponse](ctx, f, r)
}

func (f *fakeAgent) ListLeases(ctx context.Context, r *apiv1.ListLeasesRequest) (*apiv1.ListLeasesResponse, error) {
	return reply[*apiv1.ListLeasesResponse](ctx, f, r)
}

func (f *fakeAgent) ListRoutes(ctx context.Context, r *apiv1.ListRoutesRequest) (*apiv1.ListRoutesResponse, error) {
	return reply[*apiv1.ListRoutesResponse](ctx, f, r)
}

func (f *fakeAgent) ReleaseBlocks(ctx context.Context, r *apiv1.ReleaseBlocksRequest) (*apiv1.ReleaseBlocksResponse, error) {
	return reply[*apiv1.ReleaseBlocksResponse](ctx, f, r)
}

func (f *fakeAgent) ListClaims(ctx context.Context, r *apiv1.ListClaimsRequest) (*apiv1.ListClaimsResponse, error) {
	return reply[*apiv1.ListClaimsResponse](ctx, f, r)
}

func (f *fakeAgent) Explain(ctx context.Context, r *apiv1.ExplainRequest) (*apiv1.ExplainResponse, error) {
	return reply[*apiv1.ExplainResponse](ctx, f, r)
}

func (f *fakeAgent) ResetPeer(ctx context.Context, r *apiv1.ResetPeerRequest) (*apiv1.ResetPeerResponse, error) {
	return reply[*apiv1.ResetPeerResponse](ctx, f, r)
}

func (f *fakeAgent) ReleaseHost(ctx context.Context, r *apiv1.ReleaseHostRequest) (*apiv1.ReleaseHostResponse, error) {
	return reply[*apiv1.ReleaseHostResponse](ctx, f, r)
}
