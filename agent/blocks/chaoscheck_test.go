package blocks

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// What a keeper is given time for.
const (
	chaosSettle = 300 * time.Millisecond
	stepGrace   = 4*chaosSettle + slowTick // one step that has begun, and the next one's beginning
	healGrace   = 2 * stepGrace
	hearGrace   = stepGrace + sourceTimeout + 2*time.Second // the question under way, that which follows, and a step
)

// belief is what the test knows of a host, apart from the keeper.
type belief struct {
	deleted  map[netip.Prefix]time.Time // claims that an operator has deleted, and the host has not had since
	released map[netip.Prefix]bool      // what an operator has told the agent to give back, for as long as it is claimed
	taken    map[netip.Prefix]heard     // what the source has said to be another's
	covered  map[netip.Prefix]time.Time // since when blocks are announced
	granted  map[netip.Prefix]bool      // open from before, and to be announced at once
	robbed   bool                       // it has lost blocks at some time, which tears covers apart
	lowered  bool                       // so was its budget
}

type heard struct {
	at   time.Time
	life *life
}

func newBelief() belief {
	return belief{
		deleted: make(map[netip.Prefix]time.Time), released: make(map[netip.Prefix]bool), taken: make(map[netip.Prefix]heard),
		covered: make(map[netip.Prefix]time.Time), granted: make(map[netip.Prefix]bool),
	}
}

// failf ends the run. The caller holds mu.
func (w *world) failf(format string, args ...any) {
	if !w.failed {
		w.failed = true
		w.add("FAILED: "+format, args...)
		w.t.Errorf(format, args...)
	}
}

func (w *world) baseOf(addr netip.Addr) netip.Prefix {
	return w.bases[slices.IndexFunc(w.bases, func(b netip.Prefix) bool { return b.Contains(addr) })]
}

// isExcused says that something that announcements depend on is broken, or was until so lately that the agent had no time to
// recover. The caller holds mu, as for all that follows.
func (h *chaosHost) isExcused() bool {
	return h.gate != nil || h.deaf || h.mute || h.refused || time.Since(h.lastFault) < healGrace
}

// grant notes what the agent may lease from at once: what it had open before, or all that it finds at a first start.
func (h *chaosHost) grant(r ipam.Record) {
	clear(h.granted)
	for _, b := range h.bases {
		mine := len(r.Blocks) == 0 && (overlaps(h.configured, b) || slices.Contains(h.claimed(), b))
		if mine || overlaps(usedOf(r), b) {
			h.granted[b] = true
		}
	}
}

// announces checks what the speaker was just told.
func (h *chaosHost) announces() {
	told := h.speaker.told
	for _, b := range h.bases {
		switch {
		case !contains(told, b):
			delete(h.covered, b)
			if !h.isExcused() {
				delete(h.granted, b)
			}
		case h.covered[b].IsZero():
			h.covered[b] = time.Now()
			if h.granted[b] {
				h.covered[b] = time.Now().Add(-chaosSettle)
			}
			fallthrough
		default:
			delete(h.granted, b)
			delete(h.taken, b)
		}
	}
	if key, n, budget := h.opts.Budget.exceeded(told); key != "" && !h.lowered && !h.robbed {
		h.failf("%s announces %v: %d prefixes, %s is %d", h.name, told, n, key, budget)
	}
	h.checkDiscards("announcement")
	h.checkCovered("announcement")
	h.checkAliens("announcement")
}

// checkDiscards wants a discard route for all that is announced.
func (h *chaosHost) checkDiscards(when string) {
	if h.isExcused() {
		return
	}
	var discarded []netip.Prefix
	for _, s := range h.table.Status(routes.Blocks) {
		if s.State == routes.Installed {
			discarded = append(discarded, s.Route.Prefix)
		}
	}
	for _, p := range h.speaker.told {
		unknown := h.life != nil && !h.life.spoke && !contains(h.life.recorded, p) // to an agent that has just been started
		if !contains(discarded, p) && !unknown {
			h.failf("%s: at %s it announces %s, and discards %v", h.name, when, p, discarded)
		}
	}
}

// checkCovered wants all containers announced that live in blocks of the host.
func (h *chaosHost) checkCovered(when string) {
	for key, addrs := range h.live {
		for _, addr := range addrs {
			h.checkAddr(when, key.ContainerID, addr)
		}
	}
	for addr := range h.stranger {
		h.checkAddr(when, "who has no lease", addr)
	}
}

func (h *chaosHost) checkAddr(when, who string, addr netip.Addr) {
	b := h.baseOf(addr)
	_, taken := h.taken[b]
	switch {
	case h.isExcused(), h.granted[b], taken, h.configured == nil && (h.claimOf(b) < 0 || h.claims[h.claimOf(b)].by != h):
	case !overlaps(h.speaker.told, b):
		h.failf("%s: at %s %v of %s is not covered by %v", h.name, when, addr, who, h.speaker.told)
	}
}

// hears notes what the source has told.
func (l *life) hears(err error, taken []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, ipam.ErrTaken) && !l.dead {
		for _, b := range taken {
			l.taken[b] = heard{time.Now(), l}
		}
	}
}

// checkAliens wants nothing announced that is another host's, as soon as the host can know.
func (h *chaosHost) checkAliens(when string) {
	for _, c := range h.claims {
		if c.by == h || !overlaps(h.speaker.told, c.prefix) {
			continue
		}
		said, told := h.taken[c.prefix]
		if told && h.life != nil && h.life.ranAt.After(said.at) {
			said.at = h.life.ranAt
		}
		switch _, deleted := h.deleted[c.prefix]; {
		case !deleted:
			h.failf("%s: at %s it announces %v, but %s is of %s, and nobody took it away", h.name, when, h.speaker.told, c.prefix, c.by.name)
		case told && said.life == h.life && h.life.ended != nil && time.Since(said.at) > stepGrace:
			h.failf("%s: at %s it announces %v, but was told %s ago that %s is of %s", h.name, when, h.speaker.told, time.Since(said.at), c.prefix, c.by.name)
		}
	}
}

// gives checks a lease.
func (h *chaosHost) gives(key ipam.Key, addr netip.Addr) {
	b := h.baseOf(addr)
	for _, other := range h.hosts {
		for k, addrs := range other.live {
			_, deleted := h.deleted[b]
			_, deletedThere := other.deleted[b]
			if other != h && slices.Contains(addrs, addr) && !deleted && !deletedThere {
				h.failf("%s leases %v to %s, which %s of %s has", h.name, addr, key, k, other.name)
			}
		}
	}
	if h.configured == nil {
		h.givesOwn(b, addr)
	} else if !overlaps(h.configured, b) {
		h.failf("%s leases %v, and has %v configured", h.name, addr, h.configured)
	}
	if h.released[b] {
		h.failf("%s leases %v of a block that an operator has released", h.name, addr)
	}
	since, covered := h.covered[b]
	if !h.isExcused() && !h.granted[b] && (!covered || time.Since(since) < chaosSettle) {
		h.failf("%s leases %v, whose block is announced for %v", h.name, addr, time.Since(since))
	}
	h.checkAddr("attach", key.ContainerID, addr)
}

// givesOwn wants a lease to be of a block that the host has claimed, unless it cannot know better.
func (h *chaosHost) givesOwn(b netip.Prefix, addr netip.Addr) {
	since, deleted := h.deleted[b]
	i := h.claimOf(b)
	of := "nobody"
	if i >= 0 {
		if h.claims[i].by == h {
			return
		}
		since, of = h.claims[i].since, h.claims[i].by.name
	}
	if !deleted {
		h.failf("%s leases %v of %s, which is of %s, and nobody took it away", h.name, addr, b, of)
		return
	}
	if h.life.ended == nil || h.away || h.hangs || h.late > 0 || h.answersLost > 0 {
		return
	}
	if h.lastDeafness.After(since) {
		since = h.lastDeafness
	}
	if time.Since(since) > hearGrace {
		h.failf("%s leases %v of %s, which is of %s since %s", h.name, addr, b, of, time.Since(since))
	}
}

// unsettled tells what is not as it should be at the end, when nothing is broken and nobody lives anywhere.
func (h *chaosHost) unsettled() error {
	k := h.life.keeper
	k.mu.Lock()
	have, retired, waiters, host := slices.Clone(k.blocks), k.retired, len(k.waiters), k.host
	k.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	want := h.configured
	if h.configured == nil {
		want = h.claimed()
		n, pinned := make(map[section]int), make(map[section]bool)
		for _, b := range have {
			n[b.section()]++
			pinned[b.section()] = pinned[b.section()] || slices.Contains(host, b.Prefix.Addr())
		}
		for _, p := range h.pools {
			for _, ipv6 := range []bool{false, true} {
				fewest := 0
				if base(p, ipv6) > 0 && !retired && p.Name == ipam.DefaultPool || pinned[section{p.Name, ipv6}] {
					fewest = 1
				}
				if got := n[section{p.Name, ipv6}]; got != fewest {
					wrong("%d blocks of pool %s, %s, want %d (retired: %v)", got, p.Name, familyName(ipv6), fewest, retired)
				}
			}
		}
	}
	for _, b := range have {
		if b.stage != open || b.unclaimed {
			wrong("%s", b)
		}
	}
	if got := union(prefixesOf(have), nil); !slices.Equal(got, union(want, nil)) {
		wrong("it has %v, want %v", got, want)
	}
	cover := ipam.Cover(want)
	if !slices.Equal(h.speaker.told, cover) {
		wrong("it announces %v, want %v", h.speaker.told, cover)
	}
	var discards []netip.Prefix
	for _, s := range h.table.Status(routes.Blocks) {
		discards = append(discards, s.Route.Prefix)
	}
	if !slices.Equal(union(discards, nil), cover) {
		wrong("it discards %v, want %v", discards, cover)
	}
	if problems := k.Status().Problems; len(problems) > 0 {
		wrong("problems: %s", strings.Join(problems, "; "))
	}
	if waiters > 0 {
		wrong("%d wait", waiters)
	}
	record, err := ipam.LoadRecord(h.life.path)
	if err != nil || !slices.Equal(record.Blocks, recordOf(have).Blocks) || record.Retired != retired {
		wrong("record %v (%v)", record, err)
	}
	if len(errs) > 0 {
		return fmt.Errorf("%s: %s", h.name, strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; "))
	}
	return nil
}
