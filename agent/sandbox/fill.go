package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/agent"
)

const (
	// Interface is what the container's end is called in every sandbox.
	Interface = "eth0"
	// prefix begins the container ID of every sandbox, and its ID.
	prefix = "sandbox-"
	// retry follows a failure to make one ahead of time, such as a block that is full.
	retry = time.Second
)

func key(id string) agent.Key { return agent.Key{ContainerID: id, Interface: Interface} }

// Run restores the sandboxes of an earlier run, then keeps enough of them ready, until ctx ends. They stay then, for the next run.
func (p *Pool) Run(ctx context.Context) error {
	select {
	case <-p.endpoints.Restored():
	case <-ctx.Done():
		return nil
	}
	if err := p.restore(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("restore sandboxes: %w", err)
	}
	close(p.restored)
	recheck := time.NewTicker(p.recheck)
	defer recheck.Stop()
	for {
		next := p.tend(ctx)
		var again <-chan time.Time
		if next > 0 {
			again = time.After(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-p.kick:
		case <-recheck.C:
			p.weed(ctx)
		}
	}
}

// restore sorts out what an earlier run left: what is held stays its holder's, what is as it should be is ready, and all else goes.
func (p *Pool) restore(ctx context.Context) error {
	holds, live := p.holds.All(), make(map[string]bool)
	var ready []Sandbox
	acquired := make(map[string]Sandbox)
	for _, ep := range p.endpoints.Endpoints() {
		id := ep.ContainerID
		if !isSandbox(ep) {
			continue
		}
		live[id] = true
		ep.Netns = p.namespaces.Path(id)
		s := Sandbox{ID: id, State: Ready, Since: time.Now(), Endpoint: ep}
		checked, err := p.endpoints.Check(ctx, agent.CheckRequest{Key: ep.Key, Netns: ep.Netns})
		if err == nil {
			s.Endpoint = checked
		}
		h, held := holds[id]
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case held: // and stays so, whatever its holder has made of it
			s.State, s.Holder, s.Since = Acquired, h.Holder, h.Since
			acquired[h.Holder] = s
		case err == nil:
			ready = append(ready, s) // one that was made by other settings goes at the first look
		default:
			p.log.Warn("a sandbox of an earlier run is not as it was left and is removed", "sandbox", id, "err", err)
			if err := p.discard(ctx, s); err != nil {
				return err
			}
		}
	}
	p.mu.Lock()
	p.ready, p.acquired = ready, acquired
	p.mu.Unlock()
	for id := range holds {
		if !live[id] {
			if err := p.holds.Delete(id); err != nil {
				return err
			}
		}
	}
	all, err := p.namespaces.List()
	if err != nil {
		return err
	}
	for _, id := range all {
		if !live[id] {
			if err := p.namespaces.Remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// tend makes sandboxes while there are too few, and takes some away while there are too many. It returns after how long to come
// again, 0 for when it is woken.
func (p *Pool) tend(ctx context.Context) time.Duration {
	p.shrink(ctx)
	if !p.wantsMore(true) || p.endpoints.Ready(ctx) != nil {
		return 0
	}
	seen := p.attaches()
	for p.wantsMore(false) && ctx.Err() == nil {
		began := time.Now()
		s, err := p.make(ctx)
		p.mu.Lock()
		if err != nil && p.fillErr == nil && ctx.Err() == nil {
			p.log.Warn("no sandbox can be made ahead of time, will be retried", "err", err)
		}
		p.fillErr = err
		if err == nil {
			p.ready = append(p.ready, s)
		}
		spare := len(p.ready) > 1
		p.mu.Unlock()
		if err != nil {
			return retry
		}
		share, now := quietShare, p.attaches()
		if now > seen+1 {
			share = busyShare
		}
		seen = now
		// Unless somebody may be waiting for one.
		if spare && !rest(ctx, share*time.Since(began)) {
			return 0
		}
	}
	return 0
}

// How long making a sandbox is followed by a rest, in multiples of how long it took. Attaches go through the same locks of the
// kernel's: while there are any, nine tenths of the time are theirs.
const (
	quietShare time.Duration = 1
	busyShare  time.Duration = 9
)

// attaches counts those of everybody, ours with them.
func (p *Pool) attaches() uint64 {
	ok, failed := p.endpoints.Counters().Attached()
	return ok + failed
}

func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// wantsMore reports whether fewer are ready than there should be: than the low mark, to begin, or than the high one, to go on.
func (p *Pool) wantsMore(begin bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if begin {
		return len(p.ready) < p.settings.Low
	}
	return len(p.ready) < p.settings.High
}

// shrink takes away what was made by other settings, or is above the high mark.
func (p *Pool) shrink(ctx context.Context) {
	for {
		p.mu.Lock()
		i := slices.IndexFunc(p.ready, func(s Sandbox) bool { return s.Endpoint.Owner != p.settings.owner() })
		if i < 0 && len(p.ready) > p.settings.High {
			i = 0
		}
		if i < 0 {
			p.mu.Unlock()
			return
		}
		s := p.ready[i]
		p.ready = slices.Delete(p.ready, i, i+1)
		p.mu.Unlock()
		if err := p.discard(ctx, s); err != nil {
			p.log.Error("a sandbox too many is not removed; it will be when the agent starts anew", "sandbox", s.ID, "err", err)
		}
	}
}

// weed takes away those that are not ready any more, whatever became of them, and those of holders who let them go without a word.
func (p *Pool) weed(ctx context.Context) {
	for _, s := range p.List() {
		if s.State == Acquired {
			if !p.attached(s) {
				if found, err := p.release(ctx, s.Holder, s.ID); found {
					p.log.Info("an acquired sandbox was gone and is released", "sandbox", s.ID, "holder", s.Holder, "err", err)
				}
			}
			continue
		}
		_, amiss := p.endpoints.Check(ctx, agent.CheckRequest{Key: s.Endpoint.Key, Netns: s.Endpoint.Netns})
		if amiss == nil || ctx.Err() != nil {
			continue
		}
		if found, err := p.releaseReady(ctx, s.ID); found {
			p.log.Warn("a sandbox was not ready any more and is replaced", "sandbox", s.ID, "amiss", amiss, "err", err)
		}
	}
}

// make makes a sandbox, or nothing.
func (p *Pool) make(ctx context.Context) (Sandbox, error) {
	var random [8]byte
	rand.Read(random[:])
	id := prefix + hex.EncodeToString(random[:])
	p.mu.Lock()
	settings := p.settings
	p.mu.Unlock()
	if err := p.namespaces.Create(id); err != nil {
		return Sandbox{}, err
	}
	ep, err := p.endpoints.Attach(ctx, agent.AttachRequest{
		Key: key(id), Owner: settings.owner(), Netns: p.namespaces.Path(id), Pool: settings.Pool, Family: settings.Family,
	})
	if err != nil {
		return Sandbox{}, errors.Join(err, p.namespaces.Remove(id))
	}
	return Sandbox{ID: id, State: Ready, Since: time.Now(), Endpoint: ep}, nil
}

// discard takes a sandbox off the fabric for good. What it leaves on an error, the next one, or the next run, takes away.
func (p *Pool) discard(ctx context.Context, s Sandbox) error {
	ctx = context.WithoutCancel(ctx) // half of it helps nobody
	if _, err := p.endpoints.Detach(ctx, s.Endpoint.Key); err != nil {
		return err
	}
	return errors.Join(p.namespaces.Remove(s.ID), p.holds.Delete(s.ID))
}

func isSandbox(ep agent.Endpoint) bool {
	of, _, _ := strings.Cut(ep.Owner, "/")
	return of == agent.OwnerSandbox && validID(ep.ContainerID)
}

// validID reports whether a name in a directory can be that of a sandbox.
func validID(name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	_, err := hex.DecodeString(rest)
	return ok && err == nil && len(rest) == 16
}
