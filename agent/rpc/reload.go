package rpc

import (
	"context"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// Plan implements hostfabric.v1.
func (s *Server) Plan(ctx context.Context, r *apiv1.PlanRequest) (*apiv1.PlanResponse, error) {
	e, err := s.agent.Plan(ctx, r.GetConfig())
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.PlanResponse{Effects: effects(e)}, nil
}

// Reload implements hostfabric.v1.
func (s *Server) Reload(ctx context.Context, _ *apiv1.ReloadRequest) (*apiv1.ReloadResponse, error) {
	e, err := s.agent.Reload(ctx)
	if err != nil {
		return nil, rpcError(err)
	}
	return &apiv1.ReloadResponse{Effects: effects(e)}, nil
}

func effects(e agent.Effects) *apiv1.Effects {
	out := &apiv1.Effects{
		Announced: texts(e.Announced), Withdrawn: texts(e.Withdrawn), Draining: texts(e.Draining),
		Refused: texts(e.Refused), Rewritten: uint32(e.Rewritten),
	}
	for _, c := range e.Changes {
		out.Changes = append(out.Changes, &apiv1.ConfigChange{Key: c.Key, Old: c.Old, New: c.New, Restart: c.Restart})
	}
	for _, c := range e.Sessions {
		out.Sessions = append(out.Sessions, &apiv1.SessionChange{Peer: c.Peer.String(), Effect: string(c.Effect)})
	}
	return out
}
