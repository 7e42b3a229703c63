package kernel

import (
	"time"

	"github.com/hostfabric/hostfabric/routes"
)

// interest is how long the links of a route that is neither in the kernel nor tried again are watched. It is well
// above the longest backoff of routes.Table.
const interest = 2 * time.Minute

// use is what a route of ours needs from the kernel besides itself.
type use struct {
	group uint32 // nexthop group, or 0
	link  string // of a route directly onto a link, or ""
	shape shape  // in the kernel or, if it was never there, as tried
	at    time.Time
}

// shape is what tells a route from others of its prefix besides the metric.
type shape struct{ typ, scope uint8 } // RTN_*, RT_SCOPE_*

// uses knows what our routes need: those in the kernel, and those tried lately.
type uses struct {
	routes map[routes.Key]use
	links  map[string]int // routes directly onto a link
	// down has those of links that were not up, or not there, when last heard of.
	down map[string]bool
}

func newUses() uses {
	return uses{routes: make(map[routes.Key]use), links: make(map[string]int), down: make(map[string]bool)}
}

func (s uses) set(key routes.Key, u use) {
	if u.link != "" {
		s.links[u.link]++ // before the drop, which forgets a link that no route is left on
	}
	s.drop(key)
	s.routes[key] = u
}

// keepShape notes that the route is what it was before: it could not be changed.
func (s uses) keepShape(key routes.Key, before use) {
	if before.shape != (shape{}) {
		u := s.routes[key]
		u.shape = before.shape
		s.routes[key] = u
	}
}

func (s uses) drop(key routes.Key) {
	u, ok := s.routes[key]
	if !ok {
		return
	}
	delete(s.routes, key)
	if u.link == "" {
		return
	}
	if s.links[u.link]--; s.links[u.link] == 0 {
		delete(s.links, u.link)
		delete(s.down, u.link)
	}
}

// needsLink notes that a route directly onto a link was refused because that is down or not there.
func (s uses) needsLink(key routes.Key) {
	if link := s.routes[key].link; link != "" {
		s.down[link] = true
	}
}

// forget drops routes that were neither listed nor tried for a while.
func (s uses) forget(now time.Time) {
	for key, u := range s.routes {
		if now.Sub(u.at) > interest {
			s.drop(key)
		}
	}
}

func (s uses) groups() map[uint32]bool {
	used := make(map[uint32]bool)
	for _, u := range s.routes {
		used[u.group] = true
	}
	return used
}
