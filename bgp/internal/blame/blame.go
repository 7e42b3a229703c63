// Package blame finds the peer whose messages end the speaker process, and says how long it is to be held down. It has no
// clock, no network and no file of its own.
package blame

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// How long a peer is held down, and remembered.
const (
	// MinHold is the first hold-down; each further one is twice as long, up to MaxHold.
	MinHold = 10 * time.Second
	MaxHold = 10 * time.Minute
	// LastHold is the longest that the host is left without any peer: shorter than the wait for the peers' End-of-RIB, so
	// that the routes of before stay in the kernel meanwhile.
	LastHold = 5 * time.Second
	// Forgive is the quiet time, from the end of the last hold-down, after which a peer's record is as good as new.
	Forgive = time.Hour
	// window is how far apart ends of the speaker may be and still count as one story.
	window = 30 * time.Minute
)

// Peer is what is held against one peer.
type Peer struct {
	Deaths int       `json:"deaths"` // of the speaker, by this peer's messages
	Level  int       `json:"level"`  // of the hold-down: its length is MinHold doubled Level-1 times
	Last   time.Time `json:"last"`   // of the deaths
	Trials int       `json:"trials"` // times it was held to find out whether it is the one
	Until  time.Time `json:"until"`  // held down till then
	Trial  bool      `json:"trial"`  // the hold-down is a trial: nothing is proven
}

// Record is all that is remembered. The zero Record suspects nobody. Times are of the wall clock.
type Record struct {
	Crashes  uint64               `json:"crashes"`
	Last     time.Time            `json:"last"` // of the crashes
	Peers    map[netip.Addr]*Peer `json:"peers"`
	Suspects []netip.Addr         `json:"suspects"` // of the story that is going on, sorted
	Riddles  int                  `json:"riddles"`  // crashes in it that name nobody
}

// Hold is a peer that is held down.
type Hold struct {
	Until  time.Time
	Deaths int
	// Suspects is 0 where it is certain, else the number of peers that may be the one.
	Suspects int
}

// Named takes a crash whose report names the peer.
func (r *Record) Named(now time.Time, peer netip.Addr) {
	r.crash(now)
	r.convict(now, peer)
}

// Unnamed takes a crash that names nobody. present are the peers that the speaker had: the one is among them. Who was
// present every time is suspect. From the second time on one suspect at a time is held down for a trial, ever longer: if the
// speaker dies again meanwhile it was another. Who was found out that way, and was present again, is not tried again. This
// finds one culprit for sure. With several a good peer may be held for another's deaths.
func (r *Record) Unnamed(now time.Time, present []netip.Addr) {
	if now.Sub(r.Last) > window {
		r.Suspects, r.Riddles = nil, 0
	}
	r.crash(now)
	present = slices.SortedFunc(slices.Values(present), netip.Addr.Compare)
	left := slices.DeleteFunc(slices.Clone(present), func(a netip.Addr) bool { return !slices.Contains(r.Suspects, a) })
	if len(left) == 0 {
		left, r.Riddles = present, 0
	}
	r.Suspects = left
	r.Riddles++
	r.endTrials()
	known := r.worst(left)
	switch {
	case known.IsValid():
		r.convict(now, known)
		r.Suspects, r.Riddles = nil, 0
	case len(left) == 1:
		r.convict(now, left[0])
		r.Suspects, r.Riddles = nil, 0
	case len(left) > 1 && r.Riddles > 1:
		r.try(now)
	}
}

func (r *Record) crash(now time.Time) {
	r.Crashes++
	r.Last = now
	for a, p := range r.Peers {
		if now.Sub(later(p.Last, p.Until)) > Forgive {
			delete(r.Peers, a)
		}
	}
}

func (r *Record) convict(now time.Time, a netip.Addr) {
	p := r.peer(a)
	p.Deaths++
	p.Level++
	p.Last, p.Until, p.Trial = now, now.Add(doubled(p.Level-1)), false
}

// worst is the one that did it most often of those who did; zero if none did.
func (r *Record) worst(of []netip.Addr) netip.Addr {
	var worst netip.Addr
	level := 0
	for _, a := range of {
		if p := r.Peers[a]; p != nil && p.Level > level {
			worst, level = a, p.Level
		}
	}
	return worst
}

// try holds the suspect down whose turn it is.
func (r *Record) try(now time.Time) {
	turn := slices.MinFunc(r.Suspects, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(r.peer(a).Trials, r.peer(b).Trials), a.Compare(b))
	})
	p := r.peer(turn)
	p.Trials++
	p.Last, p.Until, p.Trial = now, now.Add(doubled(r.Riddles-2)), true
}

func (r *Record) endTrials() {
	for _, p := range r.Peers {
		if p.Trial {
			p.Until, p.Trial = time.Time{}, false
		}
	}
}

func (r *Record) peer(a netip.Addr) *Peer {
	if r.Peers == nil {
		r.Peers = map[netip.Addr]*Peer{}
	}
	p := r.Peers[a]
	if p == nil {
		p = &Peer{}
		r.Peers[a] = p
	}
	return p
}

// Held returns which of the configured peers are held down now. A host is not left without any peer for longer than
// LastHold: of peers that are all held, the least suspicious returns by then.
func (r *Record) Held(now time.Time, configured []netip.Addr) map[netip.Addr]Hold {
	held := map[netip.Addr]Hold{}
	for _, a := range configured {
		p := r.Peers[a]
		if p == nil || !p.Until.After(now) || p.Until.Sub(now) > MaxHold { // more: the clock was set back
			continue
		}
		h := Hold{Until: p.Until, Deaths: p.Deaths}
		if p.Trial {
			h.Deaths, h.Suspects = r.Riddles, len(r.Suspects)
		}
		held[a] = h
	}
	if len(held) == 0 || len(held) < len(configured) {
		return held
	}
	least := slices.MinFunc(configured, func(a, b netip.Addr) int {
		return cmp.Or(r.compare(a, b), held[a].Until.Compare(held[b].Until))
	})
	h := held[least]
	if last := r.Last.Add(LastHold); last.Before(h.Until) {
		h.Until = last
	}
	if held[least] = h; !h.Until.After(now) {
		delete(held, least)
	}
	return held
}

// Release ends the hold-down of a peer. What is held against it stays: the next one is longer. It reports whether it was held.
func (r *Record) Release(now time.Time, peer netip.Addr) bool {
	p := r.Peers[peer]
	if p == nil || !p.Until.After(now) {
		return false
	}
	p.Until, p.Trial = now, false
	return true
}

// Sort puts the least suspicious peers first, and leaves those alike as they are.
func (r *Record) Sort(peers []netip.Addr) { slices.SortStableFunc(peers, r.compare) }

func (r *Record) compare(a, b netip.Addr) int {
	level := func(a netip.Addr) int {
		if p := r.Peers[a]; p != nil {
			return p.Level
		}
		return 0
	}
	suspect := func(a netip.Addr) int {
		if slices.Contains(r.Suspects, a) {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(level(a), level(b)), cmp.Compare(suspect(a), suspect(b)))
}

// doubled is MinHold doubled n times, MaxHold at most.
func doubled(n int) time.Duration {
	if n >= 6 { // MinHold << 6 is more
		return MaxHold
	}
	return min(MinHold<<n, MaxHold)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
