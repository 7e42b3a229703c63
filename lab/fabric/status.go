package fabric

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"golang.org/x/sync/errgroup"
)

// NodeStatus is how a router or a host is.
type NodeStatus struct {
	Name     string
	Role     string // "spine", "tor" or "host"
	NS       string
	ASN      uint32
	Running  bool           // its processes; a host without an agent has none
	Up       int            // sessions established, as the router sees them
	Sessions int            // sessions configured
	Prefixes int            // in the container space: a router's own table; a host's blocks
	Kernel   int            // in the container space, in the kernel of a router's namespace
	Blocks   []netip.Prefix // of a host
	Err      string         // what could not be asked
}

// Status tells how every node of the lab is, the spine first, then rack by rack.
func (l *Lab) Status(ctx context.Context) ([]NodeStatus, error) {
	routers := l.Plan.Routers()
	asked := make([]NodeStatus, len(routers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, r := range routers {
		g.Go(func() error {
			asked[i] = l.routerStatus(gctx, r)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("status of lab %s: %w", l.Plan.Name, err)
	}
	all := append(make([]NodeStatus, 0, len(asked)+len(l.Plan.AllHosts())), asked[0])
	for i, rack := range l.Plan.Racks {
		perRack := len(rack.ToRs)
		all = append(all, asked[1+i*perRack:1+(i+1)*perRack]...)
		for _, h := range rack.Hosts {
			all = append(all, l.hostStatus(ctx, h))
		}
	}
	return all, nil
}

func (l *Lab) routerStatus(ctx context.Context, r Router) NodeStatus {
	t := l.tors[r.Name]
	s := NodeStatus{Name: r.Name, Role: "tor", NS: r.NS.Name, ASN: r.ASN, Running: t.Alive(), Sessions: len(r.Links)}
	if r.Name == l.Plan.Spine.Name {
		s.Role = "spine"
	}
	kernel, err := t.KernelPrefixes(ctx, l.Plan.Space...)
	s.Kernel = len(kernel)
	if err == nil && s.Running {
		var table []netip.Prefix
		if table, err = t.Prefixes(ctx, l.Plan.Space...); err == nil {
			s.Prefixes = len(table)
			s.Up, s.Sessions, err = t.Established(ctx)
		}
	}
	if err != nil {
		s.Err = err.Error()
	}
	return s
}

func (l *Lab) hostStatus(ctx context.Context, h Host) NodeStatus {
	s := NodeStatus{Name: h.Name, Role: "host", NS: h.NS.Name, ASN: h.ASN, Sessions: len(h.Links)}
	if p, err := daemon.Load(l.Plan.NodeDir(h.Name), agentName); err == nil {
		s.Running = p.Alive()
	}
	if s.Running || l.Plan.Source == Static {
		var err error
		if s.Blocks, err = l.prefixes(ctx, h); err != nil {
			s.Err = err.Error()
		}
	}
	s.Prefixes = len(s.Blocks)
	return s
}
