package bfd

import (
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"
)

// set makes the sessions what is wanted. Ones that are wanted as they are see nothing of it.
func (e *engine) set(want []Session) {
	wanted := make(map[key]Session, len(want))
	for _, w := range want {
		wanted[w.key()] = w
	}
	for _, s := range e.sessions {
		w, ok := wanted[s.want.key()]
		switch {
		case s.removing:
		case !ok:
			e.remove(s)
		default:
			delete(wanted, s.want.key())
			if w != s.want {
				s.want = w
				s.configure(e.now, w.MinTx, w.MinRx, w.Multiplier)
			}
		}
	}
	for _, w := range want {
		if _, missing := wanted[w.key()]; missing {
			e.add(w)
		}
	}
}

func (e *engine) add(w Session) {
	for _, s := range e.sessions { // one that is going would speak for the new one
		if s.removing && s.want.Peer == w.Peer && s.want.Interface == w.Interface {
			s.burst, s.urgent = 0, false
		}
	}
	e.sweep()
	s := &session{machine: newMachine(e.now, w, e.newDiscriminator(), rand.Uint32), want: w, fd: -1, since: e.now}
	s.ifindex = e.ifindex(w.Interface)
	e.adopt(s)
	if e.floor != 0 {
		s.setFloor(e.now, e.floor)
	}
	if e.adminDown {
		s.admin(e.now, true)
		s.burst = 0
	}
	e.keep(s)
	e.hub.publish(s.status())
}

// adopt enters a session into the tables.
func (e *engine) adopt(s *session) {
	e.sessions = append(e.sessions, s)
	e.byDiscr[s.discr] = s
	e.byOrigin[s.origin()] = s
}

// remove tells the peer, which needs a few packets, and forgets the session then.
func (e *engine) remove(s *session) {
	s.removing = true
	if e.byOrigin[s.origin()] == s {
		delete(e.byOrigin, s.origin())
	}
	s.admin(e.now, true)
}

// sweep forgets the sessions that have said their last.
func (e *engine) sweep() {
	e.sessions = slices.DeleteFunc(e.sessions, func(s *session) bool {
		if !s.removing || !s.quiet() {
			return false
		}
		s.close()
		delete(e.byDiscr, s.discr)
		return true
	})
}

func (e *engine) setAdminDown(down bool) {
	e.adminDown = down
	for _, s := range e.sessions {
		if !s.removing {
			was := s.state
			s.admin(e.now, down)
			e.note(s, was, 0)
		}
	}
}

func (e *engine) setFloor() {
	for _, s := range e.sessions {
		s.setFloor(e.now, e.floor)
	}
}

func (e *engine) statuses() []Status {
	all := make([]Status, 0, len(e.sessions))
	for _, s := range e.sessions {
		if !s.removing {
			all = append(all, s.status())
		}
	}
	return all
}

// housekeep looks again for what was missing, and for interfaces that were made anew under their old names.
func (e *engine) housekeep() {
	for _, s := range e.sessions {
		if i := e.ifindex(s.want.Interface); i != s.ifindex && !s.removing {
			delete(e.byOrigin, s.origin())
			s.ifindex = i
			s.close()
			e.byOrigin[s.origin()] = s
		}
		e.keep(s)
	}
}

// keep opens the sockets that a session needs.
func (e *engine) keep(s *session) {
	was := s.trouble()
	s.open()
	family := 0
	if s.want.Peer.Is6() {
		family = 1
	}
	if e.receivers[family] == nil {
		r, err := openReceiver(family == 1)
		e.receivers[family], e.errs[family] = r, ""
		if err != nil {
			e.receivers[family], e.errs[family] = nil, err.Error()
		}
	}
	s.deaf = e.errs[family]
	if s.trouble() != was && !s.removing {
		e.hub.publish(s.status())
	}
}

// ifindex is the index of an interface: 0 for none wanted, -1 if there is no such one.
func (e *engine) ifindex(name string) int {
	if name == "" {
		return 0
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1
	}
	if err := unix.IoctlIfreq(e.probe, unix.SIOCGIFINDEX, req); err != nil {
		return -1
	}
	return int(req.Uint32())
}
