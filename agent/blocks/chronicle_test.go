package blocks

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/history/historytest"
)

// inChronicle is inBubble with a ledger, and a function that fails unless it was told just this since the last time.
func inChronicle(t *testing.T, test func(r *rig, tells func(want ...string))) {
	inBubble(t, func(r *rig) {
		ledger := &historytest.Ledger{}
		r.opts.Ledger = ledger
		test(r, func(want ...string) {
			r.t.Helper()
			if got := strings.TrimSpace(ledger.Story()); got != strings.Join(want, "\n") {
				r.t.Errorf("told\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	})
}

func TestLedgerIsToldOfStaticBlocks(t *testing.T) {
	inChronicle(t, func(r *rig, tells func(...string)) {
		r.static("10.64.0.0/28", "10.64.0.16/28")
		r.start()
		tells("block-claim 10.64.0.0/28 of default (static)", "block-claim 10.64.0.16/28 of default (static)")
		r.attach(17)
		r.stop()
		r.static("10.64.0.0/28")
		r.start()
		tells("block-drain 10.64.0.16/28 of default (released)")
		r.stop()
		r.start()
		tells()
		r.detach("10.64.0.16/28")
		r.pass(10 * time.Second)
		tells("block-release 10.64.0.16/28")
		if why := r.WhyWithdrawn(netip.MustParsePrefix("10.64.0.0/27")); why != "shrink: of it, 10.64.0.0/28 is left" {
			r.t.Errorf("why: %q", why)
		}
		r.stop()
		r.static("10.64.0.0/27") // takes the place of its first half
		r.start()
		tells("block-claim 10.64.0.0/27 of default (static)")
		if why := r.WhyWithdrawn(netip.MustParsePrefix("10.64.0.0/28")); why != "growth: 10.64.0.0/27 has taken its place" {
			r.t.Errorf("why: %q", why)
		}
		r.stop()
		r.static("10.64.0.0/28", "10.64.0.16/28") // the same space in two
		r.start()
		r.pass(time.Minute)
		tells()
	})
}

func TestLedgerIsToldOfGrowth(t *testing.T) {
	inChronicle(t, func(r *rig, tells func(...string)) {
		r.opts.ShrinkAfter = time.Minute
		r.start()
		tells("block-claim 10.64.0.0/28 of default (etcd)")
		r.attach(13)
		r.rest()
		tells("block-claim 10.64.0.16/28 of default (etcd)")
		r.detach("10.64.0.0/28")
		r.pass(2 * time.Minute)
		tells("block-drain 10.64.0.16/28 of default (not needed)", "block-release 10.64.0.16/28")
		r.attach(13)
		r.rest()
		tells("block-claim 10.64.0.32/28 of default (etcd)")
		if _, err := r.Release(r.t.Context(), prefixes("10.64.0.32/28")); err != nil {
			r.t.Fatal(err)
		}
		r.attach(0)
		r.rest()
		tells("block-drain 10.64.0.32/28 of default (released)", "block-claim 10.80.0.0/28 of default (etcd)", "block-release 10.64.0.32/28")
	})
}

func TestLedgerIsToldOfLostBlocks(t *testing.T) {
	inChronicle(t, func(r *rig, tells func(...string)) {
		r.start()
		r.attach(1)
		tells("block-claim 10.64.0.0/28 of default (etcd)")
		r.grower.set(func() { r.grower.have, r.grower.taken = nil, prefixes("10.64.0.0/28") })
		r.grower.hints <- struct{}{}
		r.rest()
		tells("block-lost 10.64.0.0/28 of default", "block-claim 10.64.0.16/28 of default (etcd)")
		r.stop()
		r.start()
		tells()
		r.grower.set(func() { r.grower.taken = nil })
		r.pass(time.Minute)
		tells("block-claim 10.64.0.0/28 of default (etcd: it had been lost)")
	})
}

func TestLedgerIsToldOfBlocksThatComeBack(t *testing.T) {
	inChronicle(t, func(r *rig, tells func(...string)) {
		r.opts.ShrinkAfter = 10 * time.Second
		r.opts.HostAddress = true
		r.start()
		r.attach(15)
		if err := r.Await(r.t.Context(), "", r.Opened()); err != nil {
			r.t.Fatal(err)
		}
		r.attach(1)
		r.detach("10.64.0.0/28")
		r.pass(45 * time.Second)
		r.attach(13)
		r.rest()
		tells("block-claim 10.64.0.0/28 of default (etcd)", "block-claim 10.64.0.16/28 of default (etcd)", "block-drain 10.64.0.16/28 of default (not needed)",
			"block-claim 10.64.0.16/28 of default (in use again: it had been on its way out)")
	})
}

func TestWhyWithdrawn(t *testing.T) {
	inBubble(t, func(r *rig) {
		block := netip.MustParsePrefix("10.64.0.0/28")
		r.static("10.64.0.0/28")
		r.start()
		why := func(want string) {
			r.t.Helper()
			r.rest()
			if got := r.WhyWithdrawn(block); got != want {
				r.t.Errorf("why: %q, want %q", got, want)
			}
		}
		why("")
		r.shut(errors.New("ip_forward is 0"))
		why("health gate: ip_forward is 0")
		r.shut(nil)
		why("")
		r.Hold(true)
		why("drain")
		r.Hold(false)
		why("")
		r.table.fail("10.64.0.0/28")
		why("its discard route is not in the kernel: refused by the kernel\nfailed")
	})
}
