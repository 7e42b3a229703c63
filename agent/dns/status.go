package dns

import (
	"fmt"

	"github.com/hostfabric/hostfabric/agent"
)

// Status is the server's account of itself.
func (s *Server) Status() agent.DNSStatus {
	p := s.place.Load()
	st := agent.DNSStatus{Enabled: p.Enabled, Origin: p.origin, Names: s.opts.Names.Endpoints(), Forwards: p.Forward}
	if !p.Enabled {
		return st
	}
	if p.Forward {
		st.Upstreams = s.upstreams(p)
	}
	wanted := p.wanted(s.opts.Port)
	if len(wanted) == 0 && len(p.own) > 0 {
		st.Problems = append(st.Problems, "DNS is answered nowhere: the host has no address of its own (host_address); set dns.listen, or dns.enabled: false")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range wanted {
		switch l := s.listeners[at]; {
		case l == nil: // not yet
		case l.err != nil:
			st.Problems = append(st.Problems, fmt.Sprintf("DNS on %s: %v", at, l.err))
		default:
			st.Listeners = append(st.Listeners, at)
		}
	}
	return st
}
