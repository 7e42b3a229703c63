package unnumbered

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// How long each thing takes. RFC 4861 section 10 has longer ones, for hosts whose boot nobody waits for.
const (
	// gather is how long the first router is held back for a second one to be heard.
	gather = 100 * time.Millisecond
	// patience is how long a link is given for an advertisement, before a router that only answers is taken.
	patience = time.Second
	// A router is gone that has not answered maxProbes solicitations, probeInterval apart (RFC 4861 section 7.3.3).
	maxProbes     = 3
	probeInterval = 300 * time.Millisecond
	// recheck is how often several routers on one link are asked whether they are still there.
	recheck = 5 * time.Second
	// maxRouters bounds what is remembered of a link: anybody on it can send from any address.
	maxRouters = 8
)

// sign is what a router was heard by.
type sign int

const (
	answer        sign = iota // to an echo request to all routers (RFC 4443 section 4.2, RFC 4291 section 2.7.1), or to a probe
	advertisement             // a router advertisement
)

// router is one that was heard on the link.
type router struct {
	advertises bool
	since      time.Time // first heard
	probes     int       // without an answer yet
	probed     time.Time // the last one
	answered   time.Time // the last answer, or advertisement
}

// discovery finds the one router of a link. Time is told, and what is to be sent is returned.
type discovery struct {
	link    string
	began   time.Time // the link could be used
	current netip.Addr
	routers map[netip.Addr]*router
}

func newDiscovery(link string) *discovery {
	return &discovery{link: link, routers: map[netip.Addr]*router{}}
}

// begin starts anew on a link that came up. The router of before is still taken for the one until another is heard.
func (d *discovery) begin(now time.Time) { d.began = now }

func (d *discovery) heard(a netip.Addr, by sign, now time.Time) {
	r := d.routers[a]
	if r == nil {
		if len(d.routers) == maxRouters {
			return
		}
		r = &router{since: now}
		d.routers[a] = r
	}
	r.probes, r.answered = 0, now
	if by == advertisement && !r.advertises {
		r.advertises, r.since = true, now
	}
}

// candidates are the routers to choose from, sorted: those that advertise themselves, and in their absence those that answer.
func (d *discovery) candidates(now time.Time) []netip.Addr {
	var advertising, answering []netip.Addr
	for a, r := range d.routers {
		if r.advertises {
			advertising = append(advertising, a)
		} else {
			answering = append(answering, a)
		}
	}
	if len(advertising) == 0 && now.Sub(d.began) >= patience {
		advertising = answering
	}
	slices.SortFunc(advertising, netip.Addr.Compare)
	return advertising
}

// step chooses, and returns whom to probe and when to come again; 0: when something is heard.
func (d *discovery) step(now time.Time) (probe []netip.Addr, next time.Duration) {
	list := d.candidates(now)
	if c := d.routers[d.current]; c != nil && !c.advertises && len(list) == 1 && d.routers[list[0]].advertises {
		d.current = list[0] // what only answers may be a host that forwards
	}
	rivals := slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return a == d.current })
	switch {
	case len(rivals) == 0:
		return nil, d.untilPatience(now)
	case !d.current.IsValid() && len(rivals) == 1:
		if left := gather - now.Sub(d.routers[rivals[0]].since); left > 0 {
			return nil, left
		}
		d.current = rivals[0]
		return nil, 0
	}
	all := rivals
	if d.current.IsValid() {
		all = append(all, d.current)
	}
	probe, next = d.probe(all, now)
	if next == 0 { // somebody has gone
		return d.step(now)
	}
	return probe, next
}

// untilPatience is when an answer begins to count, while it matters.
func (d *discovery) untilPatience(now time.Time) time.Duration {
	if left := patience - now.Sub(d.began); left > 0 && !d.current.IsValid() {
		return left
	}
	return 0
}

// probe asks each router of a link with several whether it is there, and forgets those that do not say so.
func (d *discovery) probe(all []netip.Addr, now time.Time) (probe []netip.Addr, next time.Duration) {
	next = recheck
	newest := d.newest(all)
	for _, a := range all {
		r := d.routers[a]
		wait := recheck - now.Sub(r.answered)
		if r.probes > 0 || wait <= 0 || r.answered.Before(newest) {
			wait = probeInterval - now.Sub(r.probed)
		}
		if wait > 0 {
			next = min(next, wait)
			continue
		}
		if r.probes == maxProbes {
			delete(d.routers, a)
			if a == d.current {
				d.current = netip.Addr{}
			}
			return nil, 0
		}
		r.probes, r.probed = r.probes+1, now
		probe = append(probe, a)
		next = min(next, probeInterval)
	}
	return probe, next
}

// newest is when the last one of several routers was first heard.
func (d *discovery) newest(all []netip.Addr) time.Time {
	var t time.Time
	for _, a := range all {
		if since := d.routers[a].since; since.After(t) {
			t = since
		}
	}
	return t
}

// result is the router of the link, if one is known, and what is wrong.
func (d *discovery) result(now time.Time) (netip.Addr, string) {
	list := d.candidates(now)
	if d.current.IsValid() && !slices.Contains(list, d.current) {
		list = append(list, d.current)
	}
	switch {
	case len(list) > 1 && d.undecided(list):
		return d.current, "" // one of them may have replaced the other: they are being asked
	case len(list) > 1:
		names := make([]string, len(list))
		for i, a := range list {
			names[i] = a.String()
		}
		return d.current, fmt.Sprintf("several routers on %s (%s): a session by interface needs a link with one", d.link, strings.Join(names, ", "))
	case !d.current.IsValid():
		return netip.Addr{}, fmt.Sprintf("no router heard on %s", d.link)
	}
	return d.current, ""
}

// undecided reports whether the router in use has not answered yet since another one was heard.
func (d *discovery) undecided(list []netip.Addr) bool {
	return d.current.IsValid() && d.routers[d.current].answered.Before(d.newest(list))
}
