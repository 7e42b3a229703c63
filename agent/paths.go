package agent

import (
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/bgp/bfd"
)

// BFDStatus is the BFD process as the agent sees it.
type BFDStatus struct {
	Wanted    bool // there are sessions to have
	Connected bool
	Version   string // of the process
	PID       int
	Sessions  []bfd.Status // as of their last change
}

// Up counts the sessions that are.
func (b BFDStatus) Up() int {
	n := 0
	for _, s := range b.Sessions {
		if s.State == bfd.Up {
			n++
		}
	}
	return n
}

// BFD is the BFD process and its sessions with the peers.
func (a *Agent) BFD() BFDStatus {
	if a.opts.BFD == nil {
		return BFDStatus{}
	}
	return a.opts.BFD()
}

// paths tells what is wrong with the paths to the routers.
func (s *Status) paths(o Options) {
	if o.Dead != nil {
		s.Dead = o.Dead()
		for _, d := range s.Dead {
			s.problem("next hops of router %s are out of use since %s: %s", d.Peer, d.Since.Format(time.TimeOnly), d.Cause)
		}
	}
	if o.Links != nil {
		for _, problem := range o.Links() {
			if !slices.ContainsFunc(s.Peers, func(p bgp.PeerStatus) bool { return p.LastDown == problem }) {
				s.problem("%s", problem)
			}
		}
	}
	if !s.BFD.Wanted || s.Drain.Stage != Serving {
		return
	}
	if !s.BFD.Connected {
		s.problem("the BFD process is not connected: dead paths are noticed by the hold timer alone")
		return
	}
	for _, b := range s.BFD.Sessions {
		switch {
		case b.Error != "":
			s.problem("BFD with %s does not work: %s", b.Peer, b.Error)
		case b.State == bfd.Up:
		case b.RemoteState == bfd.AdminDown:
			s.problem("BFD with %s is off: the router has taken it down; its death is noticed by the hold timer alone", b.Peer)
		default:
			s.problem("BFD with %s is %s%s", b.Peer, b.State, because(b.LastDown))
		}
	}
}
