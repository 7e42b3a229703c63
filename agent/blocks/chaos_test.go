package blocks

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "seed of a single run of the chaos test; 0 takes 1, 2, 3, ... for the runs")
	chaosRuns = flag.Int("chaos.runs", 25, "how many runs the chaos test has")
)

// TestChaos has two hosts compete for the blocks of a small pool while anything may fail or die at any point, and checks all
// along what containers and the fabric rely on. A seed repeats the events; how goroutines take turns between them may differ.
func TestChaos(t *testing.T) {
	seed, runs := *chaosSeed, 1
	if seed == 0 {
		seed, runs = 1, *chaosRuns // CI tries the same each time; -chaos.runs tries more
	}
	for i := range runs {
		t.Run(fmt.Sprintf("-chaos.seed=%d", seed+uint64(i)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newWorld(t, seed+uint64(i)).run() })
		})
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{journal: &journal{}, t: t, rng: rand.New(rand.NewPCG(seed, 0))}
	pool := ipam.Pool{Name: ipam.DefaultPool, BaseIPv4: 29, Prefixes: prefixes([]string{"10.64.0.0/26", "10.64.0.0/27"}[w.rng.IntN(2)])}
	if w.chance(40) {
		pool.BaseIPv6, pool.Prefixes = 125, append(pool.Prefixes, pfx("fd00::/122"))
	}
	w.pools = []ipam.Pool{pool}
	if w.chance(30) {
		w.pools = append(w.pools, ipam.Pool{Name: "web", BaseIPv4: 29, Prefixes: prefixes("10.65.0.0/27")})
	}
	for _, p := range w.pools {
		for _, space := range p.Prefixes {
			w.bases = append(w.bases, split(space, base(p, space.Addr().Is6()))[:]...)
		}
	}
	opts := Options{
		HostAddress: w.chance(40), Settings: Settings{
			Budget: Budget{1 + w.rng.IntN(4), 1 + w.rng.IntN(4)}, Settle: chaosSettle, ShrinkAfter: time.Duration(1+w.rng.IntN(5)) * time.Second,
		},
	}
	if w.chance(25) {
		opts.MaxBlocks = 1 + w.rng.IntN(4)
	}
	configured := w.chance(15)
	for i, name := range []string{"r1h1", "r1h2"} {
		h := &chaosHost{
			world: w, name: name, dir: t.TempDir(), opts: opts, rng: rand.New(rand.NewPCG(seed, uint64(i+1))),
			table: &fakeTable{journal: w.journal}, speaker: &fakeSpeaker{journal: w.journal},
			live: make(map[ipam.Key][]netip.Addr), stranger: make(map[netip.Addr]bool), belief: newBelief(),
		}
		if configured {
			h.opts.Budget = Budget{4, 4}
			w.bases = append(w.bases, split(netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/27", 80+i)), 29)...)
			h.configure(i)
		}
		h.opts.Gate = func() error { w.mu.Lock(); defer w.mu.Unlock(); return h.gate }
		h.opts.Occupant = h.occupant
		h.opts.Follow = func(_ context.Context, own []netip.Prefix, _ []netip.Addr) error {
			w.add("%s: own %v", name, own)
			return nil
		}
		h.opts.Log = h.logger()
		w.hosts = append(w.hosts, h)
	}
	return w
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// configure draws static blocks.
func (h *chaosHost) configure(i int) {
	all := split(netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/27", 80+i)), 29)
	slices.SortFunc(all, netip.Prefix.Compare)
	h.configured = nil
	for len(h.configured) == 0 {
		for i, p := range all {
			if h.chance(50) {
				continue
			}
			wide := netip.PrefixFrom(p.Addr(), p.Bits()-1)
			if i%2 == 0 && h.chance(40) {
				h.configured = append(h.configured, wide)
			} else if !overlaps(h.configured, p) {
				h.configured = append(h.configured, p)
			}
		}
	}
}

func (h *chaosHost) occupant(_ context.Context, block netip.Prefix) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for addr := range h.stranger {
		if block.Contains(addr) {
			return "a container has " + addr.String(), nil
		}
	}
	return "", nil
}

func (w *world) run() {
	operator := w.chance(40)
	for _, h := range w.hosts {
		h.start()
	}
	for range 80 {
		h := w.hosts[w.rng.IntN(len(w.hosts))]
		w.add("event at %s: %s", h.name, h.event(operator))
		pause := []time.Duration{0, 0, time.Duration(w.rng.IntN(400)), time.Duration(w.rng.IntN(400)), time.Duration(w.rng.IntN(8000))}[w.rng.IntN(5)]
		<-time.After(pause * time.Millisecond)
		if w.rng.IntN(3) > 0 {
			synctest.Wait()
		}
		for _, h := range w.hosts {
			h.tend()
		}
		if w.over() {
			break
		}
	}
	w.waiting.Wait()
	w.settleDown()
	for _, h := range w.hosts {
		h.kill()
	}
	if w.t.Failed() {
		w.t.Log(w.tail(200))
	}
}

func (w *world) tail(n int) string {
	lines := strings.Split(w.cut(), "\n")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "FAILED") }); i >= 0 {
		lines = lines[:i+1]
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (w *world) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// tend looks after a host between two events.
func (h *chaosHost) tend() {
	switch {
	case h.life == nil && h.chance(40):
		h.start()
	case h.life != nil && h.isDead():
		h.kill()
	}
	h.mend(12)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life != nil && !h.life.dead {
		h.checkCovered("rest")
		h.checkDiscards("rest")
		h.checkAliens("rest")
	}
}

func (h *chaosHost) isDead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life.dead
}

// event has something happen at a host.
func (h *chaosHost) event(operator bool) string {
	n := 1 + h.world.rng.IntN(3)
	for {
		switch e := h.world.rng.IntN(100); {
		case h.life == nil:
			return "nothing, as it is down"
		case e < 30:
			if e < 8 {
				n = 3 + h.world.rng.IntN(12)
			}
			for range n {
				h.attach(e >= 20)
			}
			return fmt.Sprintf("attach %d", n)
		case e < 50:
			if e < 36 {
				n = len(h.live)
			}
			h.life.detach(n)
			return fmt.Sprintf("detach %d", n)
		case e < 54:
			h.kill()
			return "stop"
		case e < 60:
			h.mu.Lock()
			h.doom = 1 + h.world.rng.IntN(60)
			h.mu.Unlock()
			return "doom"
		case e < 63:
			h.strand()
			return "a lease is forgotten"
		case e < 66:
			h.kill()
			h.opts.Budget.IPv4 = 1 + h.world.rng.IntN(4)
			h.lowered = true
			return "another budget"
		case e < 72 && h.configured == nil:
			return h.release(e == 66)
		case e < 76 && h.configured == nil && operator:
			return h.deleteClaims()
		case e >= 76:
			return h.spoil(e)
		}
	}
}

// release has an operator release a block, or all.
func (h *chaosHost) release(all bool) string {
	var which []netip.Prefix
	if claimed := h.claimedNow(); !all && len(claimed) > 0 {
		which = claimed[h.world.rng.IntN(len(claimed)):][:1]
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 5*time.Second)
	defer cancel()
	l := h.life
	got, err := l.keeper.Release(ctx, which)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range got {
		if i := h.claimOf(p); err == nil && i >= 0 && h.claims[i].by == h && !l.dead {
			h.released[p] = true
		}
	}
	return fmt.Sprintf("release %v: %v, %v", which, got, err)
}

func (h *chaosHost) claimedNow() []netip.Prefix {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claimed()
}

// deleteClaims has an operator delete claims of a host that lives.
func (h *chaosHost) deleteClaims() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var gone []netip.Prefix
	for _, p := range h.claimed() {
		if len(gone) == 0 || h.chance(50) {
			gone = append(gone, p)
			h.unclaim(h.claimOf(p))
			h.deleted[p] = time.Now()
		}
	}
	h.robbed = true
	return fmt.Sprintf("delete the claims on %v", gone)
}

// strand has a container lose its lease, and live on.
func (h *chaosHost) strand() {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := h.keysOf()
	if len(keys) == 0 || h.life.dead {
		return
	}
	key := keys[h.world.rng.IntN(len(keys))]
	for _, addr := range h.live[key] {
		h.stranger[addr] = true
	}
	h.life.seeStrangers()
	if _, err := h.life.leases.Release(key); err != nil {
		h.failf("%v", err)
	}
	delete(h.live, key)
}

func (l *life) seeStrangers() {
	var set []ipam.InUse
	for addr := range l.stranger {
		set = append(set, ipam.InUse{Prefix: netip.PrefixFrom(addr, addr.BitLen()), By: "a container without a lease"})
	}
	l.leases.SetInUse(set)
}

// spoil breaks something.
func (h *chaosHost) spoil(e int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case e < 79:
		h.gate = errors.New("ip_forward is 0")
		return "the gate shuts"
	case e < 82:
		h.refused = true
		var failing []string
		for _, b := range h.bases {
			for p := b; p.Bits() > b.Bits()-4; p = netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() {
				if h.chance(20) {
					failing = append(failing, p.String())
				}
			}
		}
		h.table.fail(failing...)
		return "discard routes are refused"
	case e < 85:
		h.mute = true
		return "the speaker fails"
	case e < 87:
		h.deaf = true
		return "the speaker is gone"
	case e < 89 && !h.unwritable:
		h.unwritable = true
		h.move(filepath.Dir(h.life.path), filepath.Dir(h.life.path)+".away")
		return "the record cannot be written"
	case e < 92:
		h.away = true
		return "the source is away"
	case e < 94:
		h.hangs = true
		return "the source hangs"
	case e < 97:
		h.late = time.Duration(h.world.rng.IntN(2000)) * time.Millisecond
		return "the source is slow"
	default:
		h.answersLost++
		return "an answer will be lost"
	}
}

func (w *world) move(from, to string) {
	if err := os.Rename(from, to); err != nil {
		w.failf("%v", err)
	}
}

// mend repairs each thing that is broken, with some chance.
func (h *chaosHost) mend(percent int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	mended := func(broken bool, at *time.Time, what string) bool {
		if !broken || !h.chance(percent) {
			return false
		}
		h.add("%s: mended: %s", h.name, what)
		*at, h.excused = now, h.excused || h.life == nil && at == &h.lastFault
		return true
	}
	if mended(h.gate != nil, &h.lastFault, "gate") {
		h.gate = nil
	}
	if mended(h.refused, &h.lastFault, "discard routes") {
		h.refused = false
		h.table.fail()
	}
	if mended(h.mute, &h.lastFault, "the speaker") {
		h.mute = false
	}
	if mended(h.deaf, &h.lastFault, "the speaker is back") {
		h.deaf = false
	}
	if h.life != nil && mended(h.unwritable, new(time.Time), "the record") {
		h.writable()
	}
	if mended(h.away, &h.lastDeafness, "source") {
		h.away = false
	}
	if mended(h.hangs, &h.lastDeafness, "source hangs no more") {
		h.hangs = false
	}
	if mended(h.late > 0, &h.lastDeafness, "source is fast") {
		h.late = 0
	}
	if mended(len(h.stranger) > 0, new(time.Time), "who has no lease has gone") {
		clear(h.stranger)
		if h.life != nil {
			h.life.seeStrangers()
		}
	}
	if h.hintMissed {
		h.hint()
	}
}

func (h *chaosHost) writable() {
	h.unwritable = false
	h.move(filepath.Dir(h.life.path)+".away", filepath.Dir(h.life.path))
}

// start runs a new agent; at times it ends before it does anything.
func (h *chaosHost) start() {
	h.lives++
	l := &life{chaosHost: h, path: filepath.Join(h.dir, fmt.Sprint(h.lives), "blocks.json"), told: make(map[netip.Prefix]bool)}
	var err error
	if l.leases, err = ipam.Open(filepath.Join(h.dir, "leases"), ipam.Options{BootID: "boot", Quarantine: 2 * time.Second}); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(l.path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if h.record != nil {
		if err := os.WriteFile(l.path, h.record, 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	record, err := ipam.LoadRecord(l.path)
	if err != nil {
		h.t.Fatal(err)
	}
	opts := h.opts
	opts.Record, opts.Source = l.path, l.source()
	l.keeper = New(opts, lifeLeases{l.leases, l}, lifeTable{l}, lifeSpeaker{l})
	h.mu.Lock()
	h.life, l.recorded = l, prefixesIn(record)
	if h.excused {
		h.lastFault, h.excused = time.Now(), false
	}
	h.grant(record)
	h.add("%s: starts with %v", h.name, record)
	h.mu.Unlock()
	ctx, cancel := context.WithCancel(h.t.Context())
	l.cancel = cancel
	if err := l.keeper.Load(ctx); err != nil && !h.isDead() {
		h.t.Error(err)
	}
	h.mu.Lock()
	l.seeStrangers()
	l.serving = true
	h.mu.Unlock()
	if h.chance(15) {
		return
	}
	if err := l.keeper.Restore(ctx); err != nil {
		h.t.Error(err)
	}
	ended := make(chan error, 1)
	h.mu.Lock()
	l.ended, l.ranAt, h.lastDeafness = ended, time.Now(), time.Now()
	h.mu.Unlock()
	go func() { ended <- l.keeper.Run(ctx) }()
}

// kill ends a host's agent, if it runs.
func (h *chaosHost) kill() {
	l := h.life
	if l == nil {
		return
	}
	l.cancel()
	if l.ended != nil {
		if err := <-l.ended; err != nil {
			h.t.Error(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !l.dead {
		l.die()
	}
	if h.unwritable {
		h.writable()
	}
	if err := l.leases.Close(); err != nil {
		h.failf("%v", err)
	}
	h.life, h.doom = nil, 0
	if h.configured != nil && h.chance(60) {
		h.configure(slices.Index(h.hosts, h))
	}
}

func (h *chaosHost) keysOf() []ipam.Key {
	return slices.SortedFunc(maps.Keys(h.live), func(a, b ipam.Key) int { return strings.Compare(a.ContainerID, b.ContainerID) })
}

func (w *world) newKey() ipam.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys++
	return ipam.Key{ContainerID: fmt.Sprintf("c%04d", w.keys), Interface: "eth0"}
}

// allocate gives a container its addresses.
func (l *life) allocate(key ipam.Key, pool string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errKilled
	}
	leases, err := l.leases.Allocate(key, ipam.Request{Pool: pool})
	if err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, lease := range leases {
		addrs = append(addrs, lease.Addr)
		l.gives(key, lease.Addr)
	}
	l.add("%s: leases %v", l.name, addrs)
	l.live[key] = addrs
	return nil
}

// attach has a container come that, if told so, waits for a while where there is no address.
func (h *chaosHost) attach(wait bool) {
	l, key, pool := h.life, h.newKey(), h.pools[h.world.rng.IntN(len(h.pools))].Name
	if !wait {
		if err := l.allocate(key, pool); err != nil && !errors.Is(err, ipam.ErrExhausted) && !errors.Is(err, ipam.ErrUnknownPool) && !errors.Is(err, errKilled) {
			h.t.Error(err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Duration(1+h.world.rng.IntN(6))*time.Second)
	h.waiting.Go(func() {
		defer cancel()
		for range 100 {
			opened := l.keeper.Opened()
			err := l.allocate(key, pool)
			if !errors.Is(err, ipam.ErrExhausted) && !errors.Is(err, ipam.ErrUnknownPool) {
				return
			}
			if err := l.keeper.Await(ctx, pool, opened); err != nil {
				return
			}
		}
		h.t.Error("an attach is told to try again for ever")
	})
}

// detach has some containers go.
func (l *life) detach(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := l.keysOf()
	l.rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:min(n, len(keys))] {
		if l.dead {
			return
		}
		l.add("%s: detaches %v", l.name, l.live[key])
		delete(l.live, key)
		if _, err := l.leases.Release(key); err != nil {
			l.failf("%v", err)
		}
	}
}

// leastBudget has room for the way from any blocks to the fewest. With less, some stay, and the keeper says why.
func (h *chaosHost) leastBudget() int {
	if h.configured != nil || len(h.pools) > 1 {
		return 4
	}
	return 2
}

// settleDown mends all, has everybody leave, and waits until each host has just what it should.
func (w *world) settleDown() {
	for _, h := range w.hosts {
		h.mu.Lock()
		h.doom, h.answersLost = 0, 0
		h.mu.Unlock()
		if least := h.leastBudget(); h.opts.Budget.IPv4 < least || h.opts.Budget.IPv6 < least {
			h.kill()
			h.opts.Budget = Budget{max(least, h.opts.Budget.IPv4), max(least, h.opts.Budget.IPv6)}
		}
		for h.life == nil || h.isDead() || h.life.ended == nil {
			h.kill()
			h.start()
		}
		h.mend(100)
		h.mu.Lock()
		h.life.serving = false
		h.mu.Unlock()
		h.life.detach(len(h.live))
	}
	var err error
	for range 180 {
		if err = errors.Join(w.hosts[0].unsettled(), w.hosts[1].unsettled()); err == nil || w.over() {
			return
		}
		<-time.After(time.Second)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failf("three minutes after all is mended and all have left: %v", err)
}
