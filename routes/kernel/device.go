package kernel

import "time"

// A link that goes down or away under its routes is most often a container that ends: it goes down a moment before it
// is deleted, and the detach follows. No listing is worth that, so a hint is given only if after a while the link is
// still there and down, or the routes of a deleted one are still wanted.
const (
	downSettles    = 50 * time.Millisecond
	deletedSettles = time.Second
)

// deviceChanged takes in an event of a link that routes of ours are directly onto, and reports whether they can come
// back now. The kernel dropped them without a word when the link went down; they do not need its carrier. That they
// are gone is hinted later. Caller holds mu.
func (f *FIB) deviceChanged(name string, up, deleted bool) (back bool) {
	wasDown := f.uses.down[name]
	switch {
	case up:
		delete(f.uses.down, name)
		return wasDown
	case deleted:
		time.AfterFunc(deletedSettles, func() { f.confirmDown(name, true) })
	case !wasDown:
		time.AfterFunc(downSettles, func() { f.confirmDown(name, false) })
	}
	f.uses.down[name] = true
	return false
}

// confirmDown hints if routes of ours still want a link that is down or, if it was deleted, not there.
func (f *FIB) confirmDown(name string, deleted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.uses.links[name] == 0 || !f.uses.down[name] {
		return
	}
	exists, up := f.links.state(name)
	if up { // its event is still to come, or the one that it is down was of a former link of the name
		delete(f.uses.down, name)
	}
	if exists || deleted {
		f.hint()
	}
}
