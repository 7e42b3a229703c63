package blocks

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// What TestChaos has found, each in as few steps as show it.

// shrunk is a host of two blocks that is about to give 10.64.0.0/28 back.
func (r *rig) shrunk() {
	r.t.Helper()
	r.opts.ShrinkAfter = 10 * time.Second
	r.start()
	r.attach(13)
	r.rest()
	r.attach(4) // one of them in the second block
	r.detach("10.64.0.0/28")
}

func (r *rig) wants(addr string) error {
	_, err := r.leases.Allocate(ipam.Key{ContainerID: "wants-" + addr, Interface: "eth0"}, ipam.Request{Addresses: []netip.Addr{netip.MustParseAddr(addr)}})
	return err
}

// A block that was given back is used on after a crash, as the source is away and the record still has it.
func TestCrashWhileGivingBack(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.shrunk()
		r.pass(11 * time.Second)
		r.grower.set(func() { r.grower.hanged = make(chan struct{}) })
		r.pass(time.Minute)
		r.has("10.64.0.0/28 leaving", "10.64.0.16/28")
		r.stop()
		r.grower.set(func() { // it was done, and nobody was told
			r.grower.have, r.grower.hanged = r.grower.have[1:], nil
			r.grower.err = fmt.Errorf("%w: connection refused", ipam.ErrSourceAway)
		})
		r.start()
		if err := r.wants("10.64.0.3"); err == nil || overlaps(r.announced(), pfx("10.64.0.0/28")) {
			r.t.Errorf("given back, and leased from (%v); announced is %v", err, r.announced())
		}
		r.grower.set(func() { r.grower.err = nil })
		r.grower.hints <- struct{}{}
		r.rest()
		r.has("10.64.0.16/28")
	})
}

// The same without a crash at the wrong moment: the record cannot be written.
func TestNothingIsGivenBackWithoutARecord(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.shrunk()
		r.pass(11 * time.Second)
		if err := os.Rename(r.dir, r.dir+".away"); err != nil {
			r.t.Fatal(err)
		}
		r.pass(time.Minute)
		if got := r.cut(); strings.Contains(got, "gave back") {
			r.t.Errorf("it did\n%s", got)
		}
		r.problem("etcd: cannot give blocks back: lease file not writable: record of blocks")
		if err := os.Rename(r.dir+".away", r.dir); err != nil {
			r.t.Fatal(err)
		}
		r.pass(time.Minute)
		r.has("10.64.0.16/28")
	})
}

// A block on its way out, whose claim somebody has deleted, is taken back into use without one.
func TestLeavingBlockWithoutAClaimIsReopened(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.shrunk()
		r.pass(9 * time.Second)
		r.attach(1)
		r.detach("10.64.0.0/28") // its address rests for a while
		for r.keys(leaving) == nil {
			r.pass(100 * time.Millisecond)
		}
		r.grower.set(func() { r.grower.have = r.grower.have[1:] })
		r.grower.hints <- struct{}{}
		r.rest()
		r.attach(13)
		r.rest()
		if got := r.keys(open); slices.Contains(got, "10.64.0.0/28") {
			r.t.Errorf("its claim is gone, and it is open: %v", got)
		}
	})
}

// An operator is told that a block is released while it is not recorded, and something may still be leased from it.
func TestReleaseIsDurableWhenItIsAnswered(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		if err := r.wants("10.64.0.3"); err == nil {
			r.t.Error("leased from a released block")
		}
	})
	inBubble(t, func(r *rig) {
		r.start()
		if err := os.Rename(r.dir, r.dir+".away"); err != nil {
			r.t.Fatal(err)
		}
		if _, err := r.Release(r.t.Context(), nil); !errors.Is(err, ipam.ErrStorage) {
			r.t.Errorf("%v, want %v", err, ipam.ErrStorage)
		}
		if err := os.Rename(r.dir+".away", r.dir); err != nil {
			r.t.Fatal(err)
		}
	})
}

// A host that gives all back opens what it did not know that it has.
func TestRetiredHostFindsABlock(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(1)
		if _, err := r.Release(r.t.Context(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.stop()
		r.grower.set(func() { // claimed just before, and nobody was told
			r.grower.have = append(r.grower.have, ipam.Block{Prefix: pfx("10.64.0.16/28"), Pool: "default", Source: "etcd"})
		})
		r.start()
		r.detach("10.64.0.0/28")
		r.pass(time.Minute)
		r.has()
	})
}

// A claim whose answer was lost stays a problem, though the source lists the block.
func TestStaleRefusalOfAClaim(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		had := slices.Clone(r.grower.have)
		r.opts.Source = &picky{fakeGrower: r.grower, refuse: map[netip.Prefix]error{pfx("10.64.0.0/28"): ipam.ErrSourceAway}}
		r.stop()
		r.start()
		r.grower.set(func() { r.grower.have = nil })
		r.grower.hints <- struct{}{}
		r.rest()
		r.problem("cannot claim 10.64.0.0/28")
		r.grower.set(func() { r.grower.have = had })
		r.grower.hints <- struct{}{}
		r.pass(time.Minute)
		r.problem("")
	})
}

// A crash in the settle of a growth: the larger prefix is announced already, and after the restart nobody discards it.
func TestCrashWhileSettlingKeepsTheDiscardRoute(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.attach(13)
		for !slices.Contains(r.announced(), pfx("10.64.0.0/27")) {
			r.pass(10 * time.Millisecond)
		}
		r.stop()
		k := New(r.opts, r.leases, r.table, r.speaker)
		if err := k.Load(r.t.Context()); !errors.Is(err, ipam.ErrClosed) {
			r.t.Fatal(err)
		}
		if err := k.Restore(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		if !slices.ContainsFunc(r.table.Status(), func(s routes.Status) bool { return s.Route.Prefix == pfx("10.64.0.0/27") }) {
			r.t.Errorf("announced is %v, discarded %v", r.announced(), r.table.Status())
		}
		r.start()
	})
}
