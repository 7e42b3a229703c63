package fabric

import (
	"context"
	"fmt"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// Announced are the prefixes that an agent announces, as it says itself; an error if there are none.
func Announced(ctx context.Context, agent apiv1.HostfabricClient) ([]netip.Prefix, error) {
	s, err := agent.GetStatus(ctx, &apiv1.GetStatusRequest{})
	if err != nil {
		return nil, err
	}
	if len(s.GetAnnounced()) == 0 {
		return nil, fmt.Errorf("host %s announces nothing yet: %v", s.GetHost(), s.GetProblems())
	}
	var all []netip.Prefix
	for _, text := range s.GetAnnounced() {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("status of %s: %w", s.GetHost(), err)
		}
		all = append(all, p)
	}
	return all, nil
}

// prefixes are what a router's table should hold of a host: its planned blocks or, if it claims its blocks, what its agent says.
func (l *Lab) prefixes(ctx context.Context, h Host) ([]netip.Prefix, error) {
	if l.Plan.Source == Static {
		return h.Blocks, nil
	}
	conn, err := grpc.NewClient("unix://"+l.Plan.SocketPath(h.Name, "hostfabric.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("agent of %s: %w", h.Name, err)
	}
	defer conn.Close()
	all, err := Announced(ctx, apiv1.NewHostfabricClient(conn))
	if err != nil {
		return nil, fmt.Errorf("agent of %s: %w", h.Name, err)
	}
	return all, nil
}

// allPrefixes are those of every host.
func (l *Lab) allPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, h := range l.Plan.AllHosts() {
		of, err := l.prefixes(ctx, h)
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	return all, nil
}
