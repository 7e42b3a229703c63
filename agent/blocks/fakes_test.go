package blocks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
	"github.com/hostfabric/hostfabric/routes"
)

// journal is what the keeper did to the world around it, in order, as text. A step that came later than the one before says
// by how much.
type journal struct {
	mu    sync.Mutex
	last  time.Time
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	if later := time.Since(j.last); len(j.lines) > 0 && later > 0 {
		line = fmt.Sprintf("+%s %s", later, line)
	}
	j.lines, j.last = append(j.lines, line), time.Now()
}

// cut returns what came since the last cut.
func (j *journal) cut() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := strings.Join(j.lines, "\n")
	j.lines = nil
	return text
}

type fakeTable struct {
	journal *journal
	mu      sync.Mutex
	routes  []routes.Route
	failing []netip.Prefix
}

func (t *fakeTable) Set(_ routes.Owner, rs []routes.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.routes = slices.Clone(rs)
}

func (t *fakeTable) Upsert(_ context.Context, _ routes.Owner, r routes.Route) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.routes = append(t.routes, r)
	t.journal.add("discard %s", r.Prefix)
	if slices.Contains(t.failing, r.Prefix) {
		return errors.New("refused by the kernel")
	}
	return nil
}

func (t *fakeTable) Delete(_ context.Context, _ routes.Owner, p netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.routes = slices.DeleteFunc(t.routes, func(r routes.Route) bool { return r.Prefix == p })
	t.journal.add("no discard %s", p)
	return nil
}

func (t *fakeTable) Synced(routes.Owner)            {}
func (t *fakeTable) WaitIdle(context.Context) error { return nil }

func (t *fakeTable) Status(...routes.Owner) []routes.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []routes.Status
	for _, r := range t.routes {
		s := routes.Status{Owner: routes.Blocks, Route: r, State: routes.Installed}
		if slices.Contains(t.failing, r.Prefix) {
			s.State, s.Err = routes.Failed, errors.New("refused by the kernel")
		}
		all = append(all, s)
	}
	return all
}

// fail has the kernel refuse the discard routes of these prefixes.
func (t *fakeTable) fail(texts ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failing = prefixes(texts...)
}

type fakeSpeaker struct {
	journal *journal
	mu      sync.Mutex
	told    []netip.Prefix
	refusal error // nil: none
}

// refuse has Announce fail.
func (s *fakeSpeaker) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = err
}

func (s *fakeSpeaker) Announce(_ context.Context, set []bgp.Announcement) error {
	var ps, quiet []netip.Prefix
	for _, a := range set {
		ps = append(ps, a.Prefix)
		if slices.Contains(a.Communities, bgp.NoAdvertise) {
			quiet = append(quiet, a.Prefix)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal != nil {
		return s.refusal
	}
	s.told = ps
	if len(quiet) > 0 {
		s.journal.add("announce %v, to the ToRs alone %v", ps, quiet)
	} else {
		s.journal.add("announce %v", ps)
	}
	return nil
}

func (s *fakeSpeaker) Status() bgp.Status { return bgp.Status{Connected: true} }

// fakeGrower has pools of blocks in order: what it gives is the first of next that fits.
type fakeGrower struct {
	journal *journal
	pools   []ipam.Pool

	mu     sync.Mutex
	next   map[section][]string
	have   []ipam.Block
	err    error
	taken  []netip.Prefix // of another host
	hints  chan struct{}
	hanged chan struct{} // operations wait for its close
}

func (g *fakeGrower) Name() string       { return "etcd" }
func (g *fakeGrower) Pools() []ipam.Pool { return g.pools }

// ready waits while the source hangs, and says how it answers.
func (g *fakeGrower) ready(ctx context.Context) error {
	g.mu.Lock()
	hanged, err := g.hanged, g.err
	g.mu.Unlock()
	if hanged == nil {
		return err
	}
	select {
	case <-hanged:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *fakeGrower) Blocks(ctx context.Context) ([]ipam.Block, error) {
	if err := g.ready(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.have), nil
}

func (g *fakeGrower) Watch(context.Context) (<-chan struct{}, error) { return g.hints, nil }

func (g *fakeGrower) Grow(ctx context.Context, growth ipam.Growth) ([]ipam.Block, error) {
	if err := g.ready(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := section{growth.Pool, growth.IPv6}
	if len(g.next[s]) == 0 {
		return nil, fmt.Errorf("%w: %s", ipam.ErrPoolFull, growth.Pool)
	}
	b := ipam.Block{Prefix: netip.MustParsePrefix(g.next[s][0]), Pool: growth.Pool, Source: g.Name()}
	if err := growth.Fits([]netip.Prefix{b.Prefix}); err != nil {
		return nil, err
	}
	g.next[s] = g.next[s][1:]
	g.have = append(g.have, b)
	g.journal.add("claimed %s", b.Prefix)
	return []ipam.Block{b}, nil
}

func (g *fakeGrower) Claim(ctx context.Context, pool string, ps []netip.Prefix) ([]ipam.Block, error) {
	if err := g.ready(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var got []ipam.Block
	for _, p := range ps {
		if slices.Contains(g.taken, p) {
			return nil, fmt.Errorf("%w: %s by r9h9", ipam.ErrTaken, p)
		}
		if pool == "" {
			pool = ipam.DefaultPool
		}
		got = append(got, ipam.Block{Prefix: p, Pool: pool, Source: g.Name()})
	}
	g.have = append(g.have, got...)
	g.journal.add("claimed %v by name", ps)
	return got, nil
}

func (g *fakeGrower) Release(ctx context.Context, ps []netip.Prefix) error {
	if err := g.ready(ctx); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.have = slices.DeleteFunc(g.have, func(b ipam.Block) bool { return slices.Contains(ps, b.Prefix) })
	g.journal.add("gave back %v", ps)
	return nil
}

func (g *fakeGrower) Siblings(context.Context, []netip.Prefix) (map[netip.Prefix]ipam.Sibling, error) {
	return nil, nil
}

func (g *fakeGrower) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// leases is the real lease manager, and lets a test act right before and after its use is counted.
type leases struct {
	*ipam.Allocator
	mu            sync.Mutex
	before, after func() // nil: nothing
}

func (l *leases) Usage() []ipam.Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.before != nil {
		l.before()
	}
	all := l.Allocator.Usage()
	if l.after != nil {
		l.after()
	}
	return all
}

func (l *leases) onCount(before, after func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.after = before, after
}

// rig is a keeper with a real lease manager in a world of fakes, inside a bubble of synctest: its time is its own.
type rig struct {
	*Keeper
	*journal
	t       *testing.T
	dir     string
	leases  *leases
	table   *fakeTable
	speaker *fakeSpeaker
	grower  *fakeGrower
	opts    Options
	held    bool // as the host starts
	stop    func()

	mu       sync.Mutex // guards what follows
	gate     error
	occupant string
}

func newRig(t *testing.T) *rig {
	j := &journal{}
	r := &rig{t: t, dir: t.TempDir(), journal: j, table: &fakeTable{journal: j}, speaker: &fakeSpeaker{journal: j}}
	r.grower = &fakeGrower{
		journal: j, hints: make(chan struct{}, 1), pools: []ipam.Pool{{Name: "default", BaseIPv4: 28}},
		next: map[section][]string{{"default", false}: {"10.64.0.0/28", "10.64.0.16/28", "10.64.0.32/28", "10.80.0.0/28"}},
	}
	r.opts = Options{
		Source: r.grower, Record: filepath.Join(r.dir, "blocks.json"), Settings: Settings{Budget: Budget{4, 4}, Settle: 500 * time.Millisecond},
		Gate: func() error { r.mu.Lock(); defer r.mu.Unlock(); return r.gate },
		Occupant: func(context.Context, netip.Prefix) (string, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.occupant, nil
		},
		Follow: func(_ context.Context, own []netip.Prefix, host []netip.Addr) error {
			j.add("own %v %v", own, host)
			return nil
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	return r
}

// static has the rig's blocks configured.
func (r *rig) static(prefixes ...string) {
	var bs []ipam.Block
	for _, p := range prefixes {
		bs = append(bs, ipam.Block{Prefix: netip.MustParsePrefix(p)})
	}
	r.opts.Source = static.New(bs)
}

// start runs the keeper, after stop too, and lets it come to rest.
func (r *rig) start() {
	r.t.Helper()
	a, err := ipam.Open(filepath.Join(r.dir, "leases"), ipam.Options{BootID: "boot"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.leases = &leases{Allocator: a}
	r.Keeper = New(r.opts, r.leases, r.table, r.speaker)
	r.Hold(r.held)
	if err := r.Load(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Restore(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := errors.Join(<-done, r.leases.Close()); err != nil {
			r.t.Error(err)
		}
	}
	r.rest()
}

// rest lets everything happen that happens within three seconds.
func (r *rig) rest() { r.pass(3 * time.Second) }

// pass lets so much of the bubble's time go by, which takes no time.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) announced() []netip.Prefix {
	r.speaker.mu.Lock()
	defer r.speaker.mu.Unlock()
	return r.speaker.told
}

// occupy has somebody live in every block, or nobody.
func (r *rig) occupy(by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.occupant = by
}

// shut closes the gate for a reason, or opens it for none.
func (r *rig) shut(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = reason
}

func (r *rig) attach(n int) {
	r.t.Helper()
	for range n {
		key := ipam.Key{ContainerID: fmt.Sprintf("c%d", len(r.leases.Leases())), Interface: "eth0"}
		if _, err := r.leases.Allocate(key, ipam.Request{}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// detach releases the leases inside a prefix.
func (r *rig) detach(prefix string) {
	r.t.Helper()
	for _, l := range r.leases.Leases() {
		if netip.MustParsePrefix(prefix).Contains(l.Addr) {
			if _, err := r.leases.Release(l.Key); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// did wants the journal since the last did to be just this.
func (r *rig) did(want ...string) {
	r.t.Helper()
	if got := r.cut(); got != strings.Join(want, "\n") {
		r.t.Errorf("it did\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// order wants these steps in the journal, in this order, whatever else is between them: the source works beside the keeper.
func (r *rig) order(steps ...string) {
	r.t.Helper()
	did := r.cut()
	rest := did
	for _, step := range steps {
		_, after, ok := strings.Cut(rest, step)
		if !ok {
			r.t.Fatalf("no %q in its place; it did\n%s", step, did)
		}
		rest = after
	}
}

// has wants these blocks, as parse reads them.
func (r *rig) has(want ...string) {
	r.t.Helper()
	synctest.Wait()
	r.Keeper.mu.Lock()
	defer r.Keeper.mu.Unlock()
	if got, want := texts(r.blocks), texts(parse(want...)); got != want {
		r.t.Errorf("blocks\n%s\nwant\n%s", got, want)
	}
}

func (r *rig) problem(text string) {
	r.t.Helper()
	if got := strings.Join(r.Status().Problems, "\n"); text == "" && got != "" || !strings.Contains(got, text) {
		r.t.Errorf("problems %q, want %q", got, text)
	}
}
