package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
)

const (
	retryPause  = 10 * time.Millisecond
	longestLife = 30 * time.Millisecond
)

// caller is a runtime with one container at a time.
type caller struct {
	s      *storm
	n      int
	way    way
	stays  bool // the last container is left attached
	ns     netns.NS
	chance *rand.Rand
}

// run goes on until ctx ends, and then finishes what it is at. Some leave their last container attached.
func (c *caller) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		// Some come again under the name of the one before, whose detach may wait in the shim's spool.
		id := fmt.Sprintf("%s-%d-%d", c.way.name(), c.n, i-c.chance.IntN(2))
		a, ok := c.attach(id)
		if ok {
			c.s.book.granted(id, a)
			c.s.verify(id, a)
			pause(ctx, time.Duration(c.chance.Int64N(int64(longestLife))))
			if ctx.Err() != nil && c.stays {
				return
			}
		}
		c.detach(id, a, ok && !c.way.brings() && c.chance.IntN(3) == 0)
	}
}

// attach asks until it is told that the container is attached, or gives up after a failure or two. Then nothing is known but what
// the caller does next: to detach.
func (c *caller) attach(id string) (attachment, bool) {
	for {
		ctx, cancel := context.WithTimeout(c.s.t.Context(), patience)
		a, err := c.way.attach(ctx, id, c.ns)
		cancel()
		if c.ended("attach", id, err) {
			return a, true
		}
		if c.chance.IntN(2) == 0 {
			return attachment{}, false
		}
		pause(c.s.t.Context(), retryPause)
	}
}

// detach asks until it is told that the container is detached, and sees whether that is so. A namespace that is gone by then is
// the normal case, and nothing to fail for.
func (c *caller) detach(id string, a attachment, namespaceFirst bool) {
	c.s.book.returning(id)
	if namespaceFirst {
		if err := c.ns.Delete(); err != nil {
			c.s.book.lie("%s: %v", id, err)
		}
	}
	for {
		ctx, cancel := context.WithTimeout(c.s.t.Context(), patience)
		err := c.way.detach(ctx, id, c.ns)
		cancel()
		if c.ended("detach", id, err) {
			break
		}
		if !pause(c.s.t.Context(), retryPause) {
			return
		}
	}
	if a.hostLink != "" {
		c.gone(id, a)
	}
	if namespaceFirst {
		if _, err := netns.Create(c.ns.Name); err != nil {
			c.s.book.lie("%s: %v", id, err)
		}
	}
}

// gone holds an answered detach against the truth.
func (c *caller) gone(id string, a attachment) {
	within := time.Duration(0)
	if c.way.later() {
		within = patience
	}
	for deadline := time.Now().Add(within); ; {
		up, err := c.s.linkedTo(a.hostLink)
		if err == nil && !up {
			break
		}
		if err != nil || time.Now().After(deadline) || !pause(c.s.t.Context(), retryPause) {
			c.s.book.lie("%s was detached, but its link is up (%v)", id, err)
			break
		}
	}
	if _, err := os.Stat(a.ns.Path()); c.way.brings() && !os.IsNotExist(err) {
		c.s.book.lie("%s was released, but its namespace %s is there (%v)", id, a.ns.Path(), err)
	}
}

// ended records how a request ended, and reports whether it was done.
func (c *caller) ended(verb, id string, err error) bool {
	if err == nil {
		c.s.book.count(c.way.name() + " " + verb + " ok")
		return true
	}
	name, expected := c.way.outcome(err)
	c.s.book.count(c.way.name() + " " + verb + " " + name)
	if !expected {
		c.s.book.lie("%s of %s failed for no reason there was: %v", verb, id, err)
	}
	return false
}
