package rpc

import (
	"google.golang.org/grpc"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/bgp"
)

// Drain implements hostfabric.v1.
func (s *Server) Drain(r *apiv1.DrainRequest, stream grpc.ServerStreamingServer[apiv1.DrainProgress]) error {
	req := agent.DrainRequest{Reason: r.GetReason(), Deadline: r.GetDeadline().AsDuration(), UntilBoot: r.GetUntilBoot()}
	end, err := s.agent.Drain(stream.Context(), req, send(stream))
	if err != nil {
		return rpcError(err)
	}
	last := progress(end)
	last.Done = true
	return stream.Send(last)
}

// Undrain implements hostfabric.v1.
func (s *Server) Undrain(_ *apiv1.UndrainRequest, stream grpc.ServerStreamingServer[apiv1.DrainProgress]) error {
	end, err := s.agent.Undrain(stream.Context(), send(stream))
	if err != nil {
		return rpcError(err)
	}
	last := progress(end)
	last.Done = true
	peers, err := s.agent.Peers(stream.Context())
	if err != nil {
		return rpcError(err)
	}
	for _, p := range peers {
		if p.State != bgp.StateEstablished {
			last.PeersDown = append(last.PeersDown, p.Address.String())
		}
	}
	return stream.Send(last)
}

// send tells the caller of every step. One who has gone is noticed by the stream's context.
func send(stream grpc.ServerStreamingServer[apiv1.DrainProgress]) func(agent.DrainStatus) {
	return func(s agent.DrainStatus) { _ = stream.Send(progress(s)) }
}

func progress(s agent.DrainStatus) *apiv1.DrainProgress {
	out := &apiv1.DrainProgress{
		Stage: string(s.Stage), Step: s.Step, Reason: s.Reason, Since: timestamp(s.Since), Deadline: timestamp(s.Deadline), UntilBoot: s.UntilBoot,
		Endpoints: uint32(s.Traffic.Endpoints), BusyEndpoints: uint32(s.Traffic.Busy), PacketsPerSecond: s.Traffic.Rate,
	}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	return out
}
