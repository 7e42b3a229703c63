package blocks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// inBubble runs a test on a rig whose time is its own.
func inBubble(t *testing.T, test func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		test(r)
		r.stop()
	})
}

func TestStaticBlocksAreUsedAtOnce(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.64.0.16/28")
		r.start()
		r.did("announce [10.64.0.0/27]")
		r.has("10.64.0.0/28 static", "10.64.0.16/28 static")
		r.problem("")
		if err := r.Await(r.t.Context(), "", r.Opened()); !errors.Is(err, ErrNoGrowth) {
			r.t.Errorf("waiting for static blocks to grow: %v, want %v", err, ErrNoGrowth)
		}
	})
}

func TestRemovedBlockDrains(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28", "10.64.0.16/28")
		r.start()
		r.attach(17) // one of them in the second block
		r.stop()
		r.cut()
		r.static("10.64.0.0/28")
		r.start()
		r.did("announce [10.64.0.0/27]")
		r.has("10.64.0.0/28 static", "10.64.0.16/28 static released")
		if _, err := r.leases.Allocate(ipam.Key{ContainerID: "more", Interface: "eth0"}, ipam.Request{}); !errors.Is(err, ipam.ErrExhausted) {
			r.t.Errorf("an address of a block that drains: %v", err)
		}
		r.detach("10.64.0.16/28")
		r.rest()
		// The part that stays has its own discard route and announcement before the whole goes.
		r.did("discard 10.64.0.0/28", "announce [10.64.0.0/27 10.64.0.0/28]",
			"+500ms announce [10.64.0.0/27 10.64.0.0/28], to the ToRs alone [10.64.0.0/27]", "+500ms announce [10.64.0.0/28]",
			"+500ms no discard 10.64.0.0/27", "own [10.64.0.0/28] []")
		r.has("10.64.0.0/28 static")
		r.stop()
		r.start()
		r.has("10.64.0.0/28 static")
	})
}

func TestAddedBlockIsAnnouncedBeforeItIsUsed(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.start()
		r.stop()
		r.cut()
		r.static("10.64.0.0/28", "10.64.0.16/28")
		r.start()
		r.did("discard 10.64.0.0/27", "announce [10.64.0.0/27 10.64.0.0/28]",
			"+500ms announce [10.64.0.0/27 10.64.0.0/28], to the ToRs alone [10.64.0.0/28]", "+500ms announce [10.64.0.0/27]",
			"no discard 10.64.0.0/28")
		r.has("10.64.0.0/28 static", "10.64.0.16/28 static")
	})
}

func TestGrowth(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.order("claimed 10.64.0.0/28", "own [10.64.0.0/28] []", "discard 10.64.0.0/28", "announce [10.64.0.0/28]")
		r.has("10.64.0.0/28")
		r.attach(12)
		r.rest()
		r.did()
		r.attach(1)
		r.rest()
		r.order("claimed 10.64.0.16/28", "own [10.64.0.0/27]", "discard 10.64.0.0/27", "announce [10.64.0.0/27 10.64.0.0/28]",
			"+500ms announce [10.64.0.0/27 10.64.0.0/28], to the ToRs alone [10.64.0.0/28]", "+500ms announce [10.64.0.0/27]", "no discard 10.64.0.0/28")
		r.has("10.64.0.0/28", "10.64.0.16/28")
	})
}

func TestAttachWaitsForGrowth(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(16)
		opened := r.Opened()
		began := time.Now()
		if err := r.Await(r.t.Context(), "", opened); err != nil {
			r.t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			r.t.Errorf("it took %s", took)
		}
		r.attach(1)
		if err := r.Await(r.t.Context(), "", opened); err != nil {
			r.t.Errorf("who comes late is told to try again: %v", err)
		}
	})
}

func TestAwaitEndsWithItsCaller(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		hanged := make(chan struct{})
		r.grower.set(func() { r.grower.hanged = hanged })
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		r.attach(16)
		if err := r.Await(ctx, "", r.Opened()); !errors.Is(err, context.DeadlineExceeded) {
			r.t.Errorf("%v, want the deadline", err)
		}
		close(hanged)
	})
}

func TestGrowthBeyondTheBudget(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Budget.IPv4 = 1
		r.start()
		r.attach(16)
		for range 2 {
			err := r.Await(r.t.Context(), "", r.Opened())
			if !errors.Is(err, ipam.ErrBudget) || !strings.Contains(err.Error(), "would take 2 prefixes in a ToR's table, for a moment at least, and budget.ipv4 is 1") {
				r.t.Fatalf("%v, want %v", err, ipam.ErrBudget)
			}
		}
		r.rest()
		r.problem("budget.ipv4 is 1")
		r.has("10.64.0.0/28")
	})
}

func TestGrowthBeyondMaxBlocks(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.MaxBlocks = 1
		r.start()
		r.attach(16)
		if err := r.Await(r.t.Context(), "", r.Opened()); !errors.Is(err, ipam.ErrBudget) || !strings.Contains(err.Error(), "ipam.max_blocks is 1") {
			r.t.Fatalf("%v, want %v", err, ipam.ErrBudget)
		}
	})
}

func TestSourceAway(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		away := fmt.Errorf("%w: connection refused", ipam.ErrSourceAway)
		r.grower.set(func() { r.grower.err = away })
		r.attach(16)
		began := time.Now()
		for range 3 {
			if err := r.Await(r.t.Context(), "", r.Opened()); !errors.Is(err, ipam.ErrSourceAway) {
				r.t.Errorf("%v, want %v", err, ipam.ErrSourceAway)
			}
		}
		if took := time.Since(began); took > time.Second {
			r.t.Errorf("three refusals took %s", took)
		}
		r.rest()
		r.problem("etcd: cannot grow in pool default (IPv4)")
		r.detach("10.64.0.3/32")
		r.attach(1) // what needs no new block goes on
		r.stop()
		r.start() // even across a restart
		r.has("10.64.0.0/28")
		r.problem("source of blocks cannot be reached")
		r.grower.set(func() { r.grower.err = nil })
		r.grower.hints <- struct{}{}
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28")
		r.problem("")
	})
}

func TestShrink(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.ShrinkAfter = time.Minute
		r.start()
		r.attach(16)
		if err := r.Await(r.t.Context(), "", r.Opened()); err != nil {
			r.t.Fatal(err)
		}
		r.attach(2)
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28")
		r.detach("10.64.0.0/28")
		r.attach(0)
		r.pass(30 * time.Second)
		r.has("10.64.0.0/28", "10.64.0.16/28")
		r.cut()
		r.pass(40 * time.Second) // one of the two goes: the emptier one, which is the first
		r.did("discard 10.64.0.16/28", "announce [10.64.0.0/27 10.64.0.16/28]",
			"+500ms announce [10.64.0.0/27 10.64.0.16/28], to the ToRs alone [10.64.0.0/27]", "+500ms announce [10.64.0.16/28]",
			"+500ms no discard 10.64.0.0/27", "gave back [10.64.0.0/28]", "own [10.64.0.16/28] []")
		r.has("10.64.0.16/28")
	})
}

func TestDrainedBlockComesBackUnderPressure(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.ShrinkAfter = 10 * time.Second
		r.opts.HostAddress = true
		r.start()
		r.attach(15)
		if err := r.Await(r.t.Context(), "", r.Opened()); err != nil {
			r.t.Fatal(err)
		}
		r.attach(1)
		r.detach("10.64.0.0/28") // the second block keeps a lease
		r.pass(45 * time.Second)
		r.has("10.64.0.0/28", "10.64.0.16/28 draining")
		r.attach(13)
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28")
	})
}

func TestBlockStaysWhileSomebodyLivesThere(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.occupy("a container on link hf1 has 10.64.0.3")
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.cut()
		r.pass(time.Minute)
		r.did()
		r.problem("block 10.64.0.0/28 stays, though nothing is leased from it: a container on link hf1 has 10.64.0.3")
		r.occupy("")
		r.rest()
		r.has()
		r.problem("")
	})
}

// TestBlockIsClosedBeforeItIsCountedEmpty has an attach come right after the keeper counted that a block has no lease.
func TestBlockIsClosedBeforeItIsCountedEmpty(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.HostAddress = true
		r.opts.ShrinkAfter = 10 * time.Second
		r.start()
		r.attach(15)
		if err := r.Await(r.t.Context(), "", r.Opened()); err != nil {
			r.t.Fatal(err)
		}
		r.detach("10.64.0.0/24")
		key, wish := ipam.Key{ContainerID: "late", Interface: "eth0"}, ipam.Request{Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.20")}}
		before := func() {
			leases, held := r.leases.Lookup(key)
			if announced := r.announced(); held && !overlaps(announced, netip.PrefixFrom(leases[0].Addr, 32)) {
				r.t.Errorf("%v is leased, announced is %v", leases[0].Addr, announced)
			}
			if _, err := r.leases.Release(key); err != nil {
				r.t.Error(err)
			}
		}
		after := func() {
			if _, err := r.leases.Allocate(key, wish); err != nil && !errors.Is(err, ipam.ErrNotInBlock) {
				r.t.Error(err)
			}
		}
		r.leases.onCount(before, after)
		r.pass(30 * time.Second)
		r.leases.onCount(nil, nil)
		r.has("10.64.0.0/28")
	})
}

func TestDiscardRouteOfTheNewBlockIsRefused(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.table.fail("10.64.0.0/27")
		r.attach(13)
		r.rest()
		if got := fmt.Sprint(r.announced()); got != "[10.64.0.0/28]" {
			r.t.Errorf("announced is %s, want what was", got)
		}
		r.has("10.64.0.0/28", "10.64.0.16/28 opening")
		r.problem("10.64.0.0/27 is not announced: its discard route is not in the kernel")
		r.table.fail()
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28")
	})
}

func TestReleasedByAnOperator(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(1)
		if _, err := r.Release(r.t.Context(), []netip.Prefix{netip.MustParsePrefix("10.64.9.0/28")}); !errors.Is(err, ErrNotClaimed) {
			r.t.Errorf("release of another's block: %v", err)
		}
		got, err := r.Release(r.t.Context(), nil)
		if err != nil || fmt.Sprint(got) != "[10.64.0.0/28]" {
			r.t.Fatalf("%v, %v", got, err)
		}
		r.rest()
		r.has("10.64.0.0/28 released")
		if err := r.Await(r.t.Context(), "", r.Opened()); !errors.Is(err, ErrNoGrowth) {
			r.t.Errorf("a host that leaves grows: %v", err)
		}
		r.stop()
		r.start()
		r.has("10.64.0.0/28 released")
		r.cut()
		r.detach("10.64.0.0/28")
		r.pass(5 * time.Second)
		r.did("announce []", "+500ms no discard 10.64.0.0/28")
		r.has("10.64.0.0/28 leaving") // its address still rests
		r.pass(10 * time.Second)
		r.did("gave back [10.64.0.0/28]", "own [] []")
		r.has()
	})
}

func TestClaimTakenAway(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken by another host %v", taken), func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.start()
				r.attach(1)
				r.cut()
				r.grower.set(func() {
					r.grower.have = nil
					if taken {
						r.grower.taken = prefixes("10.64.0.0/28")
					}
				})
				r.grower.hints <- struct{}{}
				r.rest()
				if !taken {
					r.did("claimed [10.64.0.0/28] by name")
					r.has("10.64.0.0/28")
					return
				}
				r.problem("block 10.64.0.0/28 is claimed by another host")
				if got := r.cut(); !strings.Contains(got, "claimed 10.64.0.16/28") || !strings.Contains(got, "announce [10.64.0.16/28]") {
					r.t.Errorf("it did\n%s", got)
				}
				r.has("10.64.0.0/28 lost", "10.64.0.16/28")
				r.stop()
				r.start() // the container in it is not forgotten
				r.problem("block 10.64.0.0/28 is claimed by another host")
				if announced := r.announced(); overlaps(announced, netip.MustParsePrefix("10.64.0.0/28")) {
					r.t.Errorf("another host's block is announced after a restart: %v", announced)
				}
				r.grower.set(func() { r.grower.taken = nil })
				r.pass(time.Minute)
				r.has("10.64.0.16/28", "10.64.0.0/28") // the other host gave it back
				r.problem("")
			})
		})
	}
}

func TestFromStaticToEtcd(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.32/28")
		r.start()
		r.attach(3)
		r.stop()
		r.cut()
		r.opts.Source = r.grower
		r.start()
		r.did("claimed [10.64.0.32/28] by name", "announce [10.64.0.32/28]")
		r.has("10.64.0.32/28")
		r.attach(1)
	})
}

func TestConfiguredBlocksAreClaimedByName(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.opts.Configured = []ipam.Block{{Prefix: netip.MustParsePrefix("10.64.0.48/28"), Source: "static"}}
		r.start()
		r.has("10.64.0.48/28")
		r.attach(1)
	})
}

func TestPoolOpensWithBothFamilies(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.grower.pools[0].BaseIPv6 = 64
		r.start()
		r.rest()
		r.has("10.64.0.0/28 opening") // the IPv6 pool is full
		r.problem("fabric pool is full")
		err := r.Await(r.t.Context(), "", r.Opened())
		if !errors.Is(err, ipam.ErrPoolFull) {
			r.t.Errorf("%v, want %v", err, ipam.ErrPoolFull)
		}
		r.grower.set(func() { r.grower.next[section{"default", true}] = []string{"fd00::/64"} })
		r.grower.hints <- struct{}{}
		r.rest()
		r.has("10.64.0.0/28", "fd00::/64")
	})
}

func TestGateAndFailures(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		r.opts.HostAddress = true
		r.start()
		r.cut()
		for _, tt := range []struct {
			name    string
			break_  func()
			mend    func()
			problem string
		}{
			{"forwarding", func() { r.shut(errors.New("ip_forward is 0")) }, func() { r.shut(nil) }, ""},
			{"discard routes", func() { r.table.fail("10.64.0.0/28") }, func() { r.table.fail() }, "its discard route is not in the kernel"},
		} {
			tt.break_()
			r.rest()
			if got := r.cut(); !strings.HasSuffix(got, "announce []") {
				r.t.Errorf("%s: it did %q", tt.name, got)
			}
			if tt.problem != "" {
				r.problem(tt.problem)
			}
			tt.mend()
			r.rest()
			if got := r.cut(); !strings.HasSuffix(got, "announce [10.64.0.0/28]") {
				r.t.Errorf("%s mended: it did %q", tt.name, got)
			}
			r.problem("")
		}
	})
}

func TestRecordedBeforeTheFirstLease(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.static("10.64.0.0/28")
		load := func() (*Keeper, *ipam.Allocator) {
			a, err := ipam.Open(filepath.Join(r.dir, "leases"), ipam.Options{BootID: "boot"})
			if err != nil {
				r.t.Fatal(err)
			}
			k := New(r.opts, a, r.table, r.speaker)
			if err := k.Load(r.t.Context()); err != nil {
				r.t.Fatal(err)
			}
			return k, a
		}
		_, a := load() // and it ends before it runs
		if _, err := a.Allocate(ipam.Key{ContainerID: "early", Interface: "eth0"}, ipam.Request{}); err != nil {
			r.t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			r.t.Fatal(err)
		}
		r.static("10.64.1.0/28")
		r.start()
		r.has("10.64.1.0/28 static", "10.64.0.0/28 static released")
		r.stop()
		if err := os.Remove(r.opts.Record); err != nil {
			r.t.Fatal(err)
		}
		r.opts.Record = filepath.Join(r.dir, "no", "such", "directory")
		_, a = load()
		if _, err := a.Allocate(ipam.Key{ContainerID: "unrecorded", Interface: "eth0"}, ipam.Request{}); err == nil {
			r.t.Error("an address of a block that is in no record")
		}
		if err := a.Close(); err != nil {
			r.t.Fatal(err)
		}
		r.opts.Record = filepath.Join(r.dir, "blocks.json")
		r.start()
	})
}

func TestNothingChangesWithoutARecord(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(12)
		if err := os.Remove(r.opts.Record); err != nil {
			r.t.Fatal(err)
		}
		full := filepath.Dir(r.opts.Record)
		if err := os.Rename(full, full+".away"); err != nil {
			r.t.Fatal(err)
		}
		r.cut()
		r.attach(1)
		r.rest()
		if got := r.cut(); strings.Contains(got, "announce") {
			r.t.Errorf("it did\n%s", got)
		}
		r.problem("blocks not recorded, none is opened")
		if err := r.Await(r.t.Context(), "", r.Opened()); err == nil || !strings.Contains(err.Error(), "blocks not recorded") {
			r.t.Errorf("an attach that waits is told: %v", err)
		}
		if err := os.Rename(full+".away", full); err != nil {
			r.t.Fatal(err)
		}
		r.rest()
		r.has("10.64.0.0/28", "10.64.0.16/28")
	})
}
