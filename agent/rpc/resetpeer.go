package rpc

import (
	"context"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// ResetPeer implements hostfabric.v1.
func (s *Server) ResetPeer(ctx context.Context, r *apiv1.ResetPeerRequest) (*apiv1.ResetPeerResponse, error) {
	peer, effect, err := s.agent.ResetPeer(ctx, r.GetPeer(), r.GetReason())
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.ResetPeerResponse{Peer: peer.String(), Effect: string(effect)}, nil
}
