package rpc

import (
	"context"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// Explain implements hostfabric.v1.
func (s *Server) Explain(ctx context.Context, r *apiv1.ExplainRequest) (*apiv1.ExplainResponse, error) {
	subject, err := explainSubject(r.GetSubject())
	if err != nil {
		return nil, err
	}
	e, err := s.agent.Explain(ctx, subject)
	if err != nil {
		return nil, rpcError(err)
	}
	resp := &apiv1.ExplainResponse{Subject: e.Subject, Broken: e.Broken}
	for _, step := range e.Steps {
		resp.Steps = append(resp.Steps, &apiv1.ExplainStep{Link: step.Link, Verdict: string(step.Verdict), Text: step.Text})
	}
	return resp, nil
}

func explainSubject(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		if p, err := netip.ParsePrefix(text); err == nil {
			return p, nil
		}
	} else if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	return netip.Prefix{}, status.Errorf(codes.InvalidArgument, "%.64q is neither an address nor a prefix, such as 10.64.0.7 or 10.64.0.0/26", text)
}
