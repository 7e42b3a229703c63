package blocks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
	"github.com/hostfabric/hostfabric/routes"
)

// world is two hosts and the claims they compete for.
type world struct {
	*journal
	t       *testing.T
	rng     *rand.Rand // the driver's alone
	pools   []ipam.Pool
	bases   []netip.Prefix // every block there is, in bit-reversal order
	hosts   []*chaosHost
	waiting sync.WaitGroup // attaches that may wait
	keys    int

	mu     sync.Mutex // guards what follows and the hosts, and the order of all that they do
	claims []chaosClaim
	failed bool
}

type chaosClaim struct {
	prefix netip.Prefix
	pool   string
	by     *chaosHost
	since  time.Time
}

// chaosHost is a host: what of it outlives its agent.
type chaosHost struct {
	*world
	name       string
	dir        string
	opts       Options
	configured []netip.Prefix // of a static source; nil: it claims

	rng      *rand.Rand // for what happens amid the keeper's steps
	life     *life      // nil while no agent runs
	lives    int
	record   []byte // as the last agent left it
	table    *fakeTable
	speaker  *fakeSpeaker
	live     map[ipam.Key][]netip.Addr
	stranger map[netip.Addr]bool // containers without a lease
	doom     int                 // at how many points from now on it is killed; 0: not
	faults
	belief
}

// faults are what is broken at a host for now.
type faults struct {
	gate         error
	deaf         bool // its speaker is not connected
	mute         bool // Announce takes the wish, and fails
	refused      bool // some discard routes
	unwritable   bool // its record
	away, hangs  bool // the source of blocks
	late         time.Duration
	answersLost  int
	hintMissed   bool
	lastFault    time.Time // of those that have an effect on announcements
	lastDeafness time.Time // when the source could not be heard well
	excused      bool      // there was no time to recover from a fault yet when the agent ended
}

// life is one run of a host's agent: all that it does to the world goes through it, and nothing does after its death.
type life struct {
	*chaosHost
	keeper   *Keeper
	leases   *ipam.Allocator
	path     string                // of its record
	told     map[netip.Prefix]bool // blocks that the source has said to be its own
	recorded []netip.Prefix        // at its start
	spoke    bool                  // it has announced something
	serving  bool
	dead     bool
	hints    chan struct{}
	cancel   context.CancelFunc
	ended    chan error // nil: it was not run
	ranAt    time.Time
}

var errKilled = errors.New("killed")

// point is where other things can happen between two steps of the keeper: its death, an attach, a detach.
func (l *life) point() {
	l.mu.Lock()
	if l.doom > 0 && !l.dead {
		if l.doom--; l.doom == 0 {
			l.die()
		}
	}
	meddle := -1
	if !l.dead && l.serving {
		meddle = l.rng.IntN(40)
	}
	l.mu.Unlock()
	switch meddle {
	case 0, 1:
		_ = l.allocate(l.newKey(), l.pools[0].Name)
	case 2, 3:
		l.detach(1)
	}
}

// die ends all effects of the agent at once. The caller holds mu.
func (l *life) die() {
	l.add("%s: killed", l.name)
	l.dead, l.doom = true, 0
	l.record = l.readRecord()
	l.excused = l.isExcused()
}

func (l *life) readRecord() []byte {
	for _, path := range []string{l.path, filepath.Join(filepath.Dir(l.path)+".away", filepath.Base(l.path))} {
		if data, err := os.ReadFile(path); err == nil {
			return data
		}
	}
	return nil
}

// do is one effect on the world.
func (l *life) do(f func()) error {
	l.point()
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return errKilled
	}
	f()
	l.mu.Unlock()
	l.point()
	return nil
}

type lifeTable struct{ *life }

func (t lifeTable) Set(owner routes.Owner, rs []routes.Route) {
	_ = t.do(func() { t.table.Set(owner, rs) })
}

func (t lifeTable) Upsert(ctx context.Context, owner routes.Owner, r routes.Route) (err error) {
	return errors.Join(t.do(func() { err = t.table.Upsert(ctx, owner, r) }), err)
}

func (t lifeTable) Delete(ctx context.Context, owner routes.Owner, p netip.Prefix) error {
	return t.do(func() { _ = t.table.Delete(ctx, owner, p); t.checkDiscards("discard route removed") })
}

func (t lifeTable) Synced(routes.Owner)                       {}
func (t lifeTable) WaitIdle(context.Context) error            { return nil }
func (t lifeTable) Status(of ...routes.Owner) []routes.Status { return t.table.Status(of...) }

type lifeSpeaker struct{ *life }

func (s lifeSpeaker) Announce(ctx context.Context, set []bgp.Announcement) (err error) {
	killed := s.do(func() {
		_ = s.speaker.Announce(ctx, set)
		s.spoke = true
		s.announces()
		switch {
		case s.deaf:
			err = bgp.ErrDisconnected
		case s.mute:
			err = errors.New("speaker: announce: deadline exceeded")
		}
	})
	return errors.Join(killed, err)
}

func (s lifeSpeaker) Status() bgp.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bgp.Status{Connected: !s.deaf}
}

type lifeLeases struct {
	*ipam.Allocator
	life *life
}

func (l lifeLeases) Usage() []ipam.Usage {
	l.life.point()
	defer l.life.point()
	return l.Allocator.Usage()
}

func (l lifeLeases) SetBlocks(bs []ipam.Block) (err error) {
	return errors.Join(l.life.do(func() { err = l.Allocator.SetBlocks(bs) }), err)
}

// lifeSource is the host's link to the claims.
type lifeSource struct{ *life }

func (s lifeSource) Name() string       { return "etcd" }
func (s lifeSource) Pools() []ipam.Pool { return s.pools }

const sourceTimeout = 3 * time.Second

// ask does something at the source, and answers as the link is.
func (s lifeSource) ask(ctx context.Context, f func() error) (err error) {
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	is := s.faults
	s.mu.Unlock()
	away := fmt.Errorf("%w: no answer", ipam.ErrSourceAway)
	if is.hangs {
		return errors.Join(wait(sourceTimeout), away)
	}
	if is.away {
		return away
	}
	if err := wait(is.late / 2); err != nil {
		return err
	}
	lost := false
	if killed := s.do(func() {
		err = f()
		if lost = s.answersLost > 0; lost {
			s.answersLost--
			s.lastDeafness = time.Now()
			s.add("%s: an answer is lost", s.name)
		}
	}); killed != nil {
		return killed
	}
	if late := wait(is.late / 2); late != nil {
		return late
	}
	if lost {
		return away
	}
	return err
}

func (s lifeSource) blocks(ps []netip.Prefix) (out []ipam.Block) {
	for _, p := range ps {
		i := s.claimOf(p)
		s.told[p] = true
		out = append(out, ipam.Block{Prefix: p, Pool: s.claims[i].pool, Source: "etcd"})
	}
	return out
}

func (s lifeSource) Blocks(ctx context.Context) (out []ipam.Block, err error) {
	err = s.ask(ctx, func() error { out = s.blocks(s.claimed()); return nil })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s lifeSource) Watch(ctx context.Context) (<-chan struct{}, error) {
	hints := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hints = hints
	s.hint()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hints = nil
		close(hints)
	})
	return hints, nil
}

// hint tells the agent that its claims have changed, when it can be told. The caller holds mu.
func (h *chaosHost) hint() {
	h.hintMissed = h.away || h.hangs
	if h.life == nil || h.life.hints == nil || h.hintMissed {
		return
	}
	select {
	case h.life.hints <- struct{}{}:
	default:
	}
}

func (s lifeSource) Grow(ctx context.Context, g ipam.Growth) (out []ipam.Block, err error) {
	err = s.ask(ctx, func() error {
		ps, err := s.choose(g)
		if err != nil {
			return err
		}
		s.claim(g.Pool, ps)
		out = s.blocks(ps)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// choose prefers what makes the smallest cover of few blocks: siblings.
func (s lifeSource) choose(g ipam.Growth) ([]netip.Prefix, error) {
	var own, alien, untold, free []netip.Prefix
	for _, p := range s.space(g.Pool, g.IPv6) {
		switch i := s.claimOf(p); {
		case i < 0 && !overlaps(g.Have, p):
			free = append(free, p)
		case i < 0 || s.claims[i].by == s.chaosHost:
			own = append(own, p)
			if i >= 0 && !contains(g.Have, p) && !s.told[p] {
				untold = append(untold, p)
			}
		default:
			alien = append(alien, p)
		}
	}
	if len(untold) > 0 && g.Fits(untold) == nil {
		return untold, nil
	}
	if len(free) == 0 {
		return nil, fmt.Errorf("%w: %s", ipam.ErrPoolFull, g.Pool)
	}
	var candidates [][]netip.Prefix
	for _, p := range ipam.Cover(own) {
		sib, _ := sibling(p)
		parts := slices.DeleteFunc(slices.Clone(free), func(f netip.Prefix) bool { return !sib.Overlaps(f) })
		if len(parts) > 0 && !overlaps(alien, sib) {
			candidates = append(candidates, parts, parts[:1])
		}
	}
	candidates = append(candidates, free[:1])
	rank := func(c []netip.Prefix) int {
		cover := len(ipam.Cover(slices.Concat(own, c)))
		return max(0, min(1, cover-2))<<16 + len(c)<<8 + cover
	}
	slices.SortStableFunc(candidates, func(a, b []netip.Prefix) int { return rank(a) - rank(b) })
	var refused error
	for _, c := range candidates {
		err := g.Fits(c)
		if err == nil {
			return c, nil
		}
		if refused == nil {
			refused = err
		}
	}
	return nil, refused
}

func (s lifeSource) Claim(ctx context.Context, _ string, ps []netip.Prefix) (out []ipam.Block, err error) {
	var taken []netip.Prefix
	err = s.ask(ctx, func() error {
		var all []netip.Prefix
		for _, p := range ps {
			for _, b := range s.bases {
				if i := s.claimOf(b); b.Overlaps(p) && i >= 0 && s.claims[i].by != s.chaosHost {
					taken = append(taken, b)
				} else if b.Overlaps(p) {
					all = append(all, b)
				}
			}
		}
		if len(taken) > 0 {
			return fmt.Errorf("%w: %v", ipam.ErrTaken, taken)
		}
		s.claim(s.poolOf(all[0]), all)
		out = s.blocks(all)
		return nil
	})
	if err != nil {
		s.hears(err, taken)
		return nil, err
	}
	return out, nil
}

func (s lifeSource) Release(ctx context.Context, ps []netip.Prefix) error {
	return s.ask(ctx, func() error {
		for _, p := range ps {
			if i := s.claimOf(p); i >= 0 && s.claims[i].by == s.chaosHost {
				s.unclaim(i)
			}
			delete(s.told, p)
		}
		return nil
	})
}

func (s lifeSource) Siblings(context.Context, []netip.Prefix) (map[netip.Prefix]ipam.Sibling, error) {
	return nil, nil
}

// claim makes blocks the host's. The caller holds mu.
func (h *chaosHost) claim(pool string, ps []netip.Prefix) {
	for _, p := range ps {
		if h.claimOf(p) < 0 {
			h.add("%s: claims %s", h.name, p)
			h.claims = append(h.claims, chaosClaim{p, pool, h, time.Now()})
			delete(h.deleted, p)
			h.hint()
		}
	}
}

// unclaim frees a block. The caller holds mu.
func (w *world) unclaim(i int) {
	c := w.claims[i]
	w.add("%s: has %s no more", c.by.name, c.prefix)
	w.claims = slices.Delete(w.claims, i, i+1)
	delete(c.by.released, c.prefix)
	c.by.hint()
}

// claimOf is the index of the claim on a block, or -1.
func (w *world) claimOf(p netip.Prefix) int {
	return slices.IndexFunc(w.claims, func(c chaosClaim) bool { return c.prefix == p })
}

// claimed are the blocks of a host, oldest first.
func (h *chaosHost) claimed() (ps []netip.Prefix) {
	for _, c := range h.claims {
		if c.by == h {
			ps = append(ps, c.prefix)
		}
	}
	return ps
}

// space are the blocks of a section.
func (w *world) space(pool string, ipv6 bool) (ps []netip.Prefix) {
	for _, b := range w.bases {
		if b.Addr().Is6() == ipv6 && w.poolOf(b) == pool {
			ps = append(ps, b)
		}
	}
	return ps
}

func (w *world) poolOf(b netip.Prefix) string {
	for _, p := range w.pools {
		if overlaps(p.Prefixes, b) {
			return p.Name
		}
	}
	return ipam.DefaultPool
}

// split returns the blocks of a prefix in bit-reversal order.
func split(p netip.Prefix, length int) []netip.Prefix {
	n := length - p.Bits()
	all := make([]netip.Prefix, 1<<n)
	b := netip.PrefixFrom(p.Addr(), length)
	for i := range all {
		all[bits.Reverse16(uint16(i))>>(16-n)] = b
		last := netip.PrefixFrom(ipam.RangeOf(b).Last.Next(), length)
		b = last
	}
	return all
}

func (l *life) source() ipam.Source {
	if l.configured == nil {
		return lifeSource{l}
	}
	var bs []ipam.Block
	for _, p := range l.configured {
		bs = append(bs, ipam.Block{Prefix: p})
	}
	return static.New(bs)
}

// lines writes a log into the journal.
type lines struct {
	*journal
	name string
}

func (l lines) Write(p []byte) (int, error) {
	l.add("%s: log %s", l.name, p[:len(p)-1])
	return len(p), nil
}

func (h *chaosHost) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(lines{h.journal, h.name}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}
