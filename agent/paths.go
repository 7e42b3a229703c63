package agent

import (
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// BFD are the BFD sessions with the peers, as of their last change.
func (a *Agent) BFD() []bfd.Status {
	if a.opts.BFD == nil {
		return nil
	}
	sessions, _ := a.opts.BFD()
	return sessions
}

// paths tells what is wrong with the paths to the routers.
func (s *Status) paths(o Options) {
	if o.Dead != nil {
		for _, d := range o.Dead() {
			s.problem("next hops of router %s are out of use since %s: %s", d.Peer, d.Since.Format(time.TimeOnly), d.Cause)
		}
	}
	if o.BFD == nil || s.Drain.Stage != Serving {
		return
	}
	sessions, problem := o.BFD()
	if problem != "" {
		s.problem("%s", problem)
	}
	for _, b := range sessions {
		switch {
		case b.State == bfd.Up:
		case b.RemoteState == bfd.AdminDown:
			s.problem("BFD with %s is off: the router has taken it down; its death is noticed by the hold timer alone", b.Peer)
		default:
			s.problem("BFD with %s is %s%s", b.Peer, b.State, because(b.LastDown))
		}
	}
}
