package blocks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func (r *rig) keys(stage stage) (out []string) {
	r.Keeper.mu.Lock()
	defer r.Keeper.mu.Unlock()
	for _, b := range r.blocks {
		if b.stage == stage {
			out = append(out, b.Prefix.String())
		}
	}
	return out
}

// An attach that waits is not woken when a draining block is opened again.
func TestWaiterOfReopenedBlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.ShrinkAfter, r.opts.HostAddress = 10*time.Second, true
		r.start()
		r.attach(15)
		if err := r.Await(r.t.Context(), "", r.Opened()); err != nil {
			r.t.Fatal(err)
		}
		r.attach(1)
		r.detach("10.64.0.0/28")
		r.pass(45 * time.Second)
		r.has("10.64.0.0/28", "10.64.0.16/28 draining")
		opened := r.Opened()
		for i := range 15 { // at once: the keeper has no step meanwhile
			if _, err := r.leases.Allocate(ipam.Key{ContainerID: fmt.Sprintf("n%d", i), Interface: "eth0"}, ipam.Request{}); err != nil {
				r.t.Fatal(err)
			}
		}
		if _, err := r.leases.Allocate(ipam.Key{ContainerID: "w", Interface: "eth0"}, ipam.Request{}); !errors.Is(err, ipam.ErrExhausted) {
			r.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
		defer cancel()
		err := r.Await(ctx, "", opened)
		free := uint64(0)
		for _, u := range r.leases.Usage() {
			free += u.Free.Uint64()
		}
		if err != nil {
			r.t.Errorf("with %d free addresses: %v", free, err)
		}
	})
}

// A growth under way when an operator releases all is opened and kept; who waits for it is forgotten otherwise.
func TestReleaseAllDuringGrowth(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		hanged := make(chan struct{})
		r.grower.set(func() { r.grower.hanged = hanged })
		r.attach(13)
		r.rest() // the growth is under way
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.grower.set(func() { r.grower.hanged = nil })
		close(hanged)
		r.rest()
		r.detach("10.64.0.0/24")
		r.pass(2 * time.Minute)
		r.has()
		if got := r.announced(); len(got) > 0 {
			r.t.Errorf("released all, and announces %v", got)
		}
	})
}

func TestWaiterOfAHostThatLeaves(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		hanged := make(chan struct{})
		r.grower.set(func() { r.grower.hanged = hanged })
		r.grower.hints <- struct{}{} // an "ask" goes on
		r.pass(100 * time.Millisecond)
		r.attach(16)
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(r.t.Context())
		defer cancel()
		go func() { done <- r.Await(ctx, "", r.Opened()) }()
		r.pass(100 * time.Millisecond)
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.grower.set(func() { r.grower.hanged = nil })
		close(hanged)
		r.pass(5 * time.Minute)
		select {
		case err := <-done:
			r.t.Log(err)
		default:
			r.t.Error("an attach waits for a host that will never grow, for an hour")
			cancel()
			<-done
		}
	})
}

// An operator's release is forgotten by a restart once the block is leaving.
func TestRestartForgetsRelease(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(1)
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.detach("10.64.0.0/28")
		r.pass(5 * time.Second)
		r.has("10.64.0.0/28 leaving")
		r.stop()
		r.start()
		r.pass(time.Minute)
		r.has()
	})
}

// And a crash between the release in the source and the record claims again what was given back.
func TestCrashAfterGivingBack(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(1)
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.detach("10.64.0.0/28")
		r.pass(5 * time.Second)
		r.stop()
		r.grower.set(func() { r.grower.have = nil }) // the transaction was made, the answer never applied
		r.cut()
		r.start()
		r.pass(time.Minute)
		if did := r.cut(); strings.Contains(did, "claimed [10.64.0.0/28]") || strings.Contains(did, "announce [10.64.0.0/28]") {
			r.t.Errorf("the block was given back, and it did\n%s", did)
		}
	})
}

// An operator's release is undone by need while the block's addresses rest.
func TestReleasedBlockIsReopened(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(13)
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28")
		r.attach(4)
		r.detach("10.64.0.0/28")
		if _, err := r.Release(r.t.Context(), []netip.Prefix{pfx("10.64.0.0/28")}); err != nil {
			r.t.Fatal(err)
		}
		r.rest()
		r.has("10.64.0.0/28 leaving", "10.64.0.16/28")
		r.attach(14)
		r.rest()
		if got := r.keys(open); slices.Contains(got, "10.64.0.0/28") {
			r.t.Errorf("the block that the operator released is open again: %v", got)
		}
	})
}

// A block known to be another host's is handed out on: during the settle, and for as long as the record or any discard
// route fails.
func TestLostBlockIsHandedOut(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(r *rig)
		after time.Duration
	}{
		{"settling", func(*rig) {}, 300 * time.Millisecond},
		{"record not writable", func(r *rig) {
			if err := os.Rename(r.dir, r.dir+".away"); err != nil {
				r.t.Fatal(err)
			}
		}, 5 * time.Minute},
		{"a discard route fails", func(r *rig) { r.table.fail("10.64.0.0/27", "10.64.0.0/28") }, 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.start()
				r.attach(13)
				r.rest()
				r.has("10.64.0.0/28", "10.64.0.16/28")
				tt.spoil(r)
				r.grower.set(func() {
					r.grower.have = r.grower.have[:1]
					r.grower.taken = prefixes("10.64.0.16/28")
				})
				r.grower.hints <- struct{}{}
				r.pass(tt.after)
				l, err := r.leases.Allocate(ipam.Key{ContainerID: "dup", Interface: "eth0"}, ipam.Request{Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.20")}})
				if err == nil {
					r.t.Errorf("leased %v of a block that is known to be another host's; announced %v", l[0].Addr, r.announced())
				}
				if tt.name == "record not writable" {
					if err := os.Rename(r.dir+".away", r.dir); err != nil {
						r.t.Fatal(err)
					}
				}
			})
		})
	}
}

// A block in which a container lives without a lease is withdrawn and given back.
func TestBlockWithALiveContainerIsGivenBack(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.leases.SetInUse([]ipam.InUse{{Prefix: pfx("10.64.0.3/32"), By: "container x, which has no lease"}})
		r.cut()
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.pass(time.Minute)
		r.did()
	})
}

// The same for a container whose slot is damaged: its address is fenced off, not leased.
func TestDamagedSlotKeepsBlocksForEver(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(2)
		r.stop()
		file := filepath.Join(r.dir, "leases")
		data, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		at := indexOf(data, "c1")
		data[at] ^= 0xff
		if err := os.WriteFile(file, data, 0o644); err != nil {
			r.t.Fatal(err)
		}
		r.start()
		if n := len(r.leases.Damaged()); n != 1 {
			r.t.Fatalf("%d damaged", n)
		}
		if _, err := r.leases.Release(ipam.Key{ContainerID: "c0", Interface: "eth0"}); err != nil {
			r.t.Fatal(err)
		}
		r.cut()
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.pass(5 * time.Minute)
		if got := r.announced(); len(got) == 0 {
			r.t.Error("withdrawn, though the container of the damaged slot may live (its address is fenced off for that)")
		}
	})
}

func indexOf(data []byte, s string) int {
	for i := range data {
		if i+len(s) <= len(data) && string(data[i:i+len(s)]) == s {
			return i
		}
	}
	return -1
}

// flakySpeaker takes the wish and fails to report: as bgp.Speaker does when a call to the process times out.
type flakySpeaker struct {
	mu    sync.Mutex
	fails int
	want  []netip.Prefix
}

func (s *flakySpeaker) Announce(_ context.Context, set []bgp.Announcement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want = nil
	for _, a := range set {
		s.want = append(s.want, a.Prefix)
	}
	if s.fails > 0 {
		s.fails--
		return errors.New("speaker: announce: deadline exceeded")
	}
	return nil
}
func (s *flakySpeaker) Status() bgp.Status { return bgp.Status{Connected: true} }
func (s *flakySpeaker) set(fails int) (want []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = fails
	return s.want
}

func (r *rig) startWith(speaker Speaker) {
	a, err := ipam.Open(filepath.Join(r.dir, "leases"), ipam.Options{BootID: "boot"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.leases = &leases{Allocator: a}
	r.Keeper = New(r.opts, r.leases, r.table, speaker)
	if err := errors.Join(r.Load(r.t.Context()), r.Restore(r.t.Context())); err != nil {
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

// The speaker has recorded a set whose announcing was reported as failed; the keeper goes by the one before.
func TestFailedAnnounceIsRecorded(t *testing.T) {
	t.Run("the gate opens again", func(t *testing.T) {
		inBubble(t, func(r *rig) {
			r.static("10.64.0.0/28")
			s := &flakySpeaker{}
			r.startWith(s)
			s.set(1)
			r.shut(errors.New("ip_forward is 0"))
			r.Kick()
			r.pass(10 * time.Millisecond) // one step
			r.shut(nil)
			r.pass(5 * time.Minute)
			if got := s.set(0); fmt.Sprint(got) != "[10.64.0.0/28]" {
				r.t.Errorf("an hour later the speaker is to announce %v; problems %q", got, r.Status().Problems)
			}
		})
	})
	t.Run("a new block is lost", func(t *testing.T) {
		inBubble(t, func(r *rig) {
			s := &flakySpeaker{}
			r.startWith(s)
			s.set(1000)
			r.attach(13)
			r.rest() // claimed, announced with errors
			if got := s.set(1000); fmt.Sprint(got) != "[10.64.0.0/27 10.64.0.0/28]" {
				r.t.Fatalf("%v", got)
			}
			r.grower.set(func() { // an operator has released this host by mistake, and another was faster
				r.grower.have = r.grower.have[:1]
				r.grower.taken = prefixes("10.64.0.16/28")
				r.grower.next = nil
			})
			r.grower.hints <- struct{}{}
			r.pass(time.Minute)
			s.set(0)
			r.pass(5 * time.Minute)
			if got := s.set(0); fmt.Sprint(got) != "[10.64.0.0/28]" {
				r.t.Errorf("the speaker is to announce %v, discarded is %v\n%s", got, r.discards, texts(r.blocks))
			}
		})
	})
}

// A restart takes a block that was recorded but never announced for an open one.
func TestRestartBeforeOpening(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.table.fail("10.64.0.0/27")
		r.attach(13)
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28 opening")
		if got := fmt.Sprint(r.announced()); got != "[10.64.0.0/28]" {
			r.t.Fatal(got)
		}
		r.stop()
		r.start()
		if got := fmt.Sprint(r.announced()); got != "[10.64.0.0/28]" {
			r.t.Errorf("13 containers live in 10.64.0.0/28, and announced is %s", got)
		}
		if l, err := r.leases.Allocate(ipam.Key{ContainerID: "early", Interface: "eth0"}, ipam.Request{Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.20")}}); err == nil {
			r.t.Errorf("%v leased of a block that was never announced", l[0].Addr)
		}
	})
}

// Nothing fails; the crash comes in the settle of a growth.
func TestCrashWhileSettling(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(13)
		for !slices.Contains(r.announced(), pfx("10.64.0.0/27")) {
			r.pass(10 * time.Millisecond)
		}
		r.stop()
		// What a speaker of an earlier run has: 10.64.0.0/27 and 10.64.0.0/28, for some ms.
		a, err := ipam.Open(filepath.Join(r.dir, "leases"), ipam.Options{BootID: "boot"})
		if err != nil {
			r.t.Fatal(err)
		}
		r.leases = &leases{Allocator: a}
		r.Keeper = New(r.opts, r.leases, r.table, r.speaker)
		if err := errors.Join(r.Load(r.t.Context()), r.Restore(r.t.Context())); err != nil {
			r.t.Fatal(err)
		}
		if l, err := a.Allocate(ipam.Key{ContainerID: "early", Interface: "eth0"}, ipam.Request{Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.20")}}); err == nil {
			r.t.Errorf("%v leased before the keeper ran: its block was never open", l[0].Addr)
		}
		r.leases.Close()
		r.start()
	})
}

// A release of what was never claimed has it announced.
func TestReleaseOfAnUnclaimedBlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Configured = []ipam.Block{{Prefix: pfx("10.64.0.48/28")}}
		r.grower.err = fmt.Errorf("%w: connection refused", ipam.ErrSourceAway)
		r.start()
		r.cut()
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.pass(10 * time.Second)
		if got := r.cut(); got != "" {
			r.t.Errorf("never claimed, and it did\n%s", got)
		}
	})
}

// The same for a configured block that is in no pool.
func TestConfiguredBlockInNoPool(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Configured = []ipam.Block{{Prefix: pfx("10.99.0.0/28")}}
		r.opts.Source = &picky{fakeGrower: r.grower, refuse: map[netip.Prefix]error{pfx("10.99.0.0/28"): fmt.Errorf("%w: none has it", ipam.ErrUnknownPool)}}
		r.start()
		if did := r.cut(); strings.Contains(did, "10.99.0.0/28") {
			r.t.Errorf("never claimed, and it did\n%s\n%s", did, texts(r.blocks))
		}
	})
}

// picky refuses to claim some prefixes.
type picky struct {
	*fakeGrower
	refuse map[netip.Prefix]error
}

func (g *picky) Claim(ctx context.Context, pool string, ps []netip.Prefix) ([]ipam.Block, error) {
	for _, p := range ps {
		if err := g.refuse[p]; err != nil {
			return nil, err
		}
	}
	return g.fakeGrower.Claim(ctx, pool, ps)
}

// The host takes an address of a block that it has not claimed.
func TestHostAddressOfAnUnclaimedBlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.HostAddress = true
		r.opts.Configured = []ipam.Block{{Prefix: pfx("10.64.0.48/28")}}
		r.grower.err = fmt.Errorf("%w: connection refused", ipam.ErrSourceAway)
		r.start()
		if own, host := r.Own(); len(own)+len(host) > 0 {
			r.t.Errorf("nothing is claimed, and its own are %v, its addresses %v", own, host)
		}
	})
}

// A block that grows out of one with containers is announced only when it is admitted; the old one is withdrawn at once.
func TestLargerBlockIsNotAdmitted(t *testing.T) {
	t.Run("static, budget", func(t *testing.T) {
		inBubble(t, func(r *rig) {
			r.opts.Budget.IPv4 = 2
			r.static("10.64.0.0/28", "10.80.0.0/28")
			r.start()
			r.attach(17)
			r.stop()
			r.cut()
			r.static("10.96.0.0/28", "10.64.0.0/27") // both fit the budget; 10.80.0.0/28 drains
			r.start()
			if got := r.announced(); !overlaps(got, pfx("10.64.0.0/28")) {
				r.t.Errorf("16 containers live in 10.64.0.0/28, announced is %v\n%s", got, texts(r.blocks))
			}
		})
	})
	t.Run("to etcd, other family missing", func(t *testing.T) {
		inBubble(t, func(r *rig) {
			r.static("10.64.0.0/29")
			r.start()
			r.attach(3)
			r.stop()
			r.cut()
			r.grower.pools[0].BaseIPv6 = 64 // full
			r.opts.Source = &widening{r.grower}
			r.start()
			if got := r.announced(); !overlaps(got, pfx("10.64.0.0/29")) {
				r.t.Errorf("3 containers live in 10.64.0.0/29, announced is %v\n%s", got, texts(r.blocks))
			}
		})
	})
}

// widening claims whole base blocks, as the contract says.
type widening struct{ *fakeGrower }

func (g *widening) Claim(ctx context.Context, pool string, ps []netip.Prefix) ([]ipam.Block, error) {
	wide := slices.Clone(ps)
	for i, p := range wide {
		if p.Bits() > 28 {
			wide[i] = netip.PrefixFrom(p.Addr(), 28).Masked()
		}
	}
	return g.fakeGrower.Claim(ctx, pool, wide)
}

// An attach that comes after Run has ended waits for nobody.
func TestAwaitAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.attach(16)
		opened := r.Opened()
		r.stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err := r.Await(ctx, "", opened)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it waited for %s: %v", took, err)
		}
	})
}

// A refused growth that nobody needs any more stays a problem.
func TestStaleRefusal(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.MaxBlocks = 1
		r.start()
		r.attach(13)
		r.rest()
		r.problem("max_blocks")
		r.detach("10.64.0.0/28")
		r.pass(5 * time.Minute)
		r.problem("")
	})
}

// The source has said that a block is not this host's, and refuses to give it; it is handed out on.
func TestUnclaimedBlockIsHandedOut(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Source = &picky{fakeGrower: r.grower, refuse: map[netip.Prefix]error{pfx("10.64.0.0/28"): errors.New("etcd refuses this host: grant its user readwrite")}}
		r.start()
		r.grower.set(func() { r.grower.have = nil }) // an operator's release --host
		r.grower.hints <- struct{}{}
		r.pass(5 * time.Minute)
		if l, err := r.leases.Allocate(ipam.Key{ContainerID: "dup", Interface: "eth0"}, ipam.Request{}); err == nil && pfx("10.64.0.0/28").Contains(l[0].Addr) {
			r.t.Errorf("%v leased of a block that is nobody's by the source for an hour\n%s", l[0].Addr, texts(r.blocks))
		}
	})
}

// A claim that is refused for good keeps all others from being claimed.
func TestOneRefusedClaimStopsAll(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Configured = []ipam.Block{{Prefix: pfx("10.96.0.0/16")}, {Prefix: pfx("10.64.0.48/28")}}
		r.opts.Source = &picky{fakeGrower: r.grower, refuse: map[netip.Prefix]error{
			pfx("10.96.0.0/16"): errors.New("more than 4096 blocks of /28: claim them in parts")}}
		r.start()
		r.pass(5 * time.Minute)
		if got := r.keys(open); !slices.Contains(got, "10.64.0.48/28") {
			r.t.Errorf("open are %v\n%s", got, texts(r.blocks))
		}
	})
}

// A lowered budget is exceeded without a word.
func TestLoweredBudget(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.grower.next[section{"default", false}] = []string{"10.64.0.0/28", "10.80.0.0/28", "10.96.0.0/28"}
		r.start()
		r.attach(13)
		r.rest()
		r.stop()
		r.opts.Budget.IPv4 = 1
		r.start()
		r.pass(time.Minute)
		if got := r.announced(); len(got) > 1 && len(r.Status().Problems) == 0 {
			r.t.Errorf("announced is %v, the budget is 1, problems: %q", got, r.Status().Problems)
		}
	})
}

// An end of the agent hurries the last step of a growth.
func TestStopInTheLastSettle(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(13)
		for !r.quietly() {
			r.pass(10 * time.Millisecond)
		}
		r.cut()
		r.stop()
		if got := r.cut(); got != "" {
			r.t.Errorf("at the end it did\n%s", got)
		}
		r.start()
	})
}

func (r *rig) quietly() bool {
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	return slices.ContainsFunc(r.lines, func(l string) bool { return strings.Contains(l, "to the ToRs alone") })
}

// A block that was lost and is claimed anew stays lost.
func TestAdoptLost(t *testing.T) {
	got := adopt(parse("10.64.0.0/28 lost"), parse("10.64.0.0/28")[0].Block)
	if got[0].stage == lost {
		t.Errorf("the source gave %v, and it is %v", got[0].Prefix, got[0].stage)
	}
}

// A release of the only block, whose replacement is not to be had at once, retires the host at the next start.
func TestReleaseOfTheOnlyBlockRetires(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(1)
		r.grower.set(func() { r.grower.err = fmt.Errorf("%w: away", ipam.ErrSourceAway) })
		if _, err := r.Release(r.t.Context(), prefixes("10.64.0.0/28")); err != nil {
			r.t.Fatal(err)
		}
		r.rest()
		r.stop()
		r.grower.set(func() { r.grower.err = nil })
		r.start()
		r.pass(5 * time.Minute)
		if got := r.keys(open); len(got) == 0 {
			r.t.Errorf("one block was released, not all: the host has\n%s\nand problems %q", texts(r.blocks), r.Status().Problems)
		}
	})
}

// A host all of whose addresses are fenced off does not grow, and who waits waits for ever.
func TestFencedAddressesDoNotCount(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(12)
		r.stop()
		file := filepath.Join(r.dir, "leases")
		data, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		for i := range 12 {
			at := indexOf(data, fmt.Sprintf("c%d", i))
			data[at] ^= 0xff
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			r.t.Fatal(err)
		}
		r.start()
		for i := 0; ; i++ {
			_, err := r.leases.Allocate(ipam.Key{ContainerID: fmt.Sprintf("n%d", i), Interface: "eth0"}, ipam.Request{})
			if errors.Is(err, ipam.ErrExhausted) {
				break
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Hour)
		defer cancel()
		if err := r.Await(ctx, "", r.Opened()); errors.Is(err, context.DeadlineExceeded) {
			u := r.leases.Usage()[0]
			r.t.Errorf("exhausted (%d leased, %d fenced, %v free): %v", u.Leased, u.Quarantined, u.Free, err)
		}
	})
}

// The budget was judged by what was announced when the growth began; blocks beyond it stay claimed for ever.
func TestGrowthAndReleaseTogetherExceedTheBudget(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Budget.IPv4 = 4
		r.grower.pools = append(r.grower.pools, ipam.Pool{Name: "web", BaseIPv4: 28})
		r.grower.next = map[section][]string{
			{"default", false}: {"10.64.0.0/28"}, {"web", false}: {"10.80.0.0/28", "10.96.0.0/28", "10.112.0.0/28"},
		}
		r.opts.Configured = []ipam.Block{{Prefix: pfx("10.64.0.16/28")}, {Prefix: pfx("10.64.0.32/28")}, {Prefix: pfx("10.64.0.48/28")}, {Prefix: pfx("10.64.0.0/28")}}
		r.start()
		r.attach(1)
		if err := r.Await(r.t.Context(), "web", r.Opened()); err != nil {
			r.t.Fatal(err)
		}
		for i := range 12 {
			if _, err := r.leases.Allocate(ipam.Key{ContainerID: fmt.Sprintf("w%d", i), Interface: "eth0"}, ipam.Request{Pool: "web"}); err != nil {
				r.t.Fatal(err)
			}
		}
		hanged := make(chan struct{})
		asking := make(chan struct{})
		r.grower.set(func() { r.grower.hanged = asking })
		r.grower.hints <- struct{}{}
		r.pass(10 * time.Millisecond)
		done := make(chan error, 13)
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Hour)
		defer cancel()
		for range 13 {
			go func() { done <- r.Await(ctx, "web", r.Opened()) }()
		}
		r.rest()
		r.grower.set(func() { r.grower.hanged = hanged })
		close(asking)
		r.rest()
		if _, err := r.Release(r.t.Context(), prefixes("10.64.0.48/28", "10.64.0.0/28")); err != nil {
			r.t.Fatal(err)
		}
		r.pass(time.Minute)
		r.grower.set(func() { r.grower.hanged = nil })
		close(hanged)
		r.pass(5 * time.Minute)
		if got := r.keys(opening); len(got) > 0 {
			r.t.Errorf("claimed, never used and never given back: %v", got)
		}
		for range 13 {
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		}
	})
}

// The first growth of a pool does not know how many wait for it.
func TestFirstGrowthOfAPool(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.grower.pools = append(r.grower.pools, ipam.Pool{Name: "web", BaseIPv4: 28})
		r.grower.next[section{"web", false}] = []string{"10.80.0.0/28", "10.80.0.16/28", "10.80.0.32/28", "10.80.0.48/28"}
		r.start()
		asking := make(chan struct{})
		r.grower.set(func() { r.grower.hanged = asking })
		r.grower.hints <- struct{}{}
		r.pass(10 * time.Millisecond)
		done := make(chan error, 40)
		for range 40 {
			go func() { done <- r.Await(r.t.Context(), "web", r.Opened()) }()
		}
		r.pass(10 * time.Millisecond)
		r.grower.set(func() { r.grower.hanged = nil })
		close(asking)
		for range 40 {
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		}
		n := 0
		for _, p := range r.keys(open) {
			if overlaps(prefixes("10.80.0.0/24"), pfx(p)) {
				n++
			}
		}
		if n < 3 {
			r.t.Errorf("40 attaches waited for a pool without blocks, and are woken by %d blocks of 16", n)
		}
	})
}

// From etcd to static, the claims stay in etcd without a word.
func TestFromEtcdToStatic(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.stop()
		r.static("192.168.7.0/28")
		var log strings.Builder
		r.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
		r.start()
		r.pass(time.Minute)
		r.has("192.168.7.0/28 static")
		r.stop()
		if !strings.Contains(log.String(), "still claimed for this host") {
			r.t.Errorf("nobody says that %v is still claimed:\n%s", r.grower.have, &log)
		}
		r.start()
	})
}
