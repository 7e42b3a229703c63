package bfd

import "sync"

// maxPending is how many changes a subscriber may leave unread before it is given the whole state instead.
const maxPending = 1024

// hub hands changes to subscribers. Publishing never waits for one.
type hub struct {
	mu   sync.Mutex // guards subs and everything in them
	subs map[*subscription]struct{}
}

type subscription struct {
	pending []Status
	lost    bool          // more changes than were kept
	wake    chan struct{} // holds one token while something is pending
}

func newHub() *hub { return &hub{subs: map[*subscription]struct{}{}} }

func (h *hub) subscribe() *subscription {
	s := &subscription{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs[s] = struct{}{}
	return s
}

func (h *hub) unsubscribe(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

func (h *hub) publish(st Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		if len(s.pending) == maxPending {
			s.pending, s.lost = s.pending[:0], true
		}
		s.pending = append(s.pending, st)
		select {
		case s.wake <- struct{}{}:
		default: // it has yet to look
		}
	}
}

// take returns what has happened since the last call.
func (h *hub) take(s *subscription) (changes []Status, lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changes, lost = s.pending, s.lost
	s.pending, s.lost = nil, false
	return changes, lost
}
