package fabric

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testShape is a small lab whose name nobody else uses at the moment.
func testShape(t *testing.T, kind tor.Kind) Shape {
	t.Helper()
	nstest.RequireRoot(t)
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%d", t.Name(), os.Getpid())
	return Shape{Name: fmt.Sprintf("t%08x", h.Sum32()), Dir: fmt.Sprintf("/run/hflabtest-%d", os.Getpid()), Racks: 1, Hosts: 2, Containers: 2, Tor: kind, IPv6: true}
}

func testUp(t *testing.T, opts Options) *Lab {
	t.Helper()
	lab, err := Up(context.Background(), opts, func(p Progress) { t.Logf("%s %d/%d", p.Step, p.Done, p.Total) })
	t.Cleanup(func() {
		if err := Down(context.Background(), opts.Shape); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// eventually polls until check is content.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", within, err)
		}
		<-tick.C
	}
}

// startHosts puts a BIRD into every host's namespace, in place of an agent, which announces the host's blocks.
func startHosts(t *testing.T, lab *Lab) map[string]tor.Tor {
	t.Helper()
	bird, err := tor.New(tor.BIRD, tor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]tor.Tor{}
	for _, h := range lab.Plan.AllHosts() {
		n := lab.Plan.TorNode(Router{Name: h.Name, NS: h.NS, ASN: h.ASN, RouterID: h.RouterID, Links: h.Links, Networks: h.Blocks})
		if err := os.MkdirAll(n.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if hosts[h.Name], err = bird.Start(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	return hosts
}

func expect(t *testing.T, what string, want []netip.Prefix, get func() ([]netip.Prefix, error)) {
	t.Helper()
	want = slices.SortedFunc(slices.Values(want), netip.Prefix.Compare)
	eventually(t, 20*time.Second, func() error {
		got, err := get()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			return errors.New(what + " (-want +got):\n" + diff)
		}
		return nil
	})
}

// TestRouters checks every implementation as top-of-rack routers and spine of a rack with two hosts.
func TestRouters(t *testing.T) {
	for _, kind := range tor.Kinds {
		t.Run(string(kind), func(t *testing.T) { testRouters(t, kind) })
	}
}

func testRouters(t *testing.T, kind tor.Kind) {
	ctx := context.Background()
	lab := testUp(t, Options{Shape: testShape(t, kind), Binary: publicCopy(t)})
	hosts := startHosts(t, lab)
	blocks, defaults := lab.Plan.Blocks(), lab.Plan.Spine.Networks
	for _, r := range lab.Plan.Routers() {
		router := lab.Tor(r.Name)
		expect(t, r.Name+" table", blocks, func() ([]netip.Prefix, error) { return router.Prefixes(ctx, lab.Plan.Space...) })
		expect(t, r.Name+" kernel", blocks, func() ([]netip.Prefix, error) { return router.KernelPrefixes(ctx, lab.Plan.Space...) })
		eventually(t, 10*time.Second, func() error {
			up, total, err := router.Established(ctx)
			if err == nil && (up != len(r.Links) || total != len(r.Links)) {
				err = fmt.Errorf("%s: %d of %d sessions up, want all of %d", r.Name, up, total, len(r.Links))
			}
			return err
		})
		if n, err := router.UpdatesReceived(ctx); err != nil || n == 0 {
			t.Errorf("%s: %d updates received (%v), want some", r.Name, n, err)
		}
	}
	for _, h := range lab.Plan.AllHosts() {
		want := slices.Concat(defaults, without(blocks, h.Blocks))
		expect(t, h.Name+" kernel", want, func() ([]netip.Prefix, error) { return hosts[h.Name].KernelPrefixes(ctx, defaults...) })
		for _, prefix := range defaults {
			eventually(t, 10*time.Second, func() error { return twoLegs(h.NS, prefix) })
		}
	}
	for _, block := range blocks {
		eventually(t, 10*time.Second, func() error { return twoLegs(lab.Plan.Spine.NS, block) })
	}
	testFailover(t, lab)
	testStop(t, lab)
}

// testStop ends a router in an orderly way: its neighbours notice without waiting for a timer.
func testStop(t *testing.T, lab *Lab) {
	ctx := context.Background()
	spine := lab.Tor("spine")
	established := func(want int) func() error {
		return func() error {
			up, _, err := spine.Established(ctx)
			if err == nil && up != want {
				err = fmt.Errorf("the spine has %d sessions, want %d", up, want)
			}
			return err
		}
	}
	eventually(t, 10*time.Second, established(2))
	if err := lab.Tor("r1t2").Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if lab.Tor("r1t2").Alive() || !lab.Tor("r1t1").Alive() {
		t.Error("r1t2 alone was to be stopped")
	}
	eventually(t, 2*time.Second, established(1))
}

// twoLegs says whether the kernel of a namespace spreads a destination over two links.
func twoLegs(ns netns.NS, prefix netip.Prefix) error {
	return ns.Do(func() error {
		family := netlink.FAMILY_V4
		if prefix.Addr().Is6() {
			family = netlink.FAMILY_V6
		}
		all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE) //nolint:forbidigo // an interrupted one is asked for again
		if err != nil {
			return err
		}
		for _, r := range all {
			ones := 0
			if r.Dst != nil {
				ones, _ = r.Dst.Mask.Size()
			}
			if ones == prefix.Bits() && (ones == 0 || r.Dst.IP.Equal(prefix.Addr().AsSlice())) {
				if len(r.MultiPath) == 2 {
					return nil
				}
				return fmt.Errorf("%s in %s: %v, want two legs", prefix, ns.Name, r)
			}
		}
		return fmt.Errorf("%s in %s: no route", prefix, ns.Name)
	})
}

// testFailover switches a router off and on under traffic between the two hosts of a rack.
func testFailover(t *testing.T, lab *Lab) {
	ctx := context.Background()
	hosts := lab.Plan.AllHosts()
	pairs := probe.AllToAll(slices.Concat(addressed(t, hosts[0]), addressed(t, hosts[1])), func(e probe.Endpoint) string { return e.NS.Name })
	eventually(t, 10*time.Second, func() error {
		r, err := probe.Ping(ctx, pairs, probe.PingOptions{Timeout: 200 * time.Millisecond})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("%d of %d pings between the hosts fail: %v", r.Lost, r.Sent, r.Failed)
		}
		return err
	})
	var many []probe.Pair
	for range 4 { // streams of different ports take different legs
		many = append(many, pairs...)
	}
	traffic, err := probe.StartStream(ctx, many, probe.StreamOptions{Rate: 500})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if !traffic.Flowing(100 * time.Millisecond) {
			return errors.New("traffic does not flow")
		}
		return nil
	})
	before := forwarded(t, lab, "r1t1")
	eventually(t, 5*time.Second, func() error {
		if n := forwarded(t, lab, "r1t1") - before; n < 100 {
			return fmt.Errorf("only %d packets pass by r1t1", n)
		}
		return nil
	})
	traffic.Mark()
	if err := lab.PowerOff("r1t1"); err != nil {
		t.Fatal(err)
	}
	off := time.Now()
	eventually(t, 5*time.Second, func() error {
		if time.Since(off) < 500*time.Millisecond || !traffic.Flowing(100*time.Millisecond) {
			return errors.New("traffic does not flow with one router off")
		}
		return nil
	})
	var lost, sent uint64
	var gap time.Duration
	for _, r := range traffic.Stop() {
		lost, sent, gap = lost+r.Lost, sent+r.Sent, max(gap, r.LongestGap)
	}
	t.Logf("router off: %d of %d packets lost, longest silence %s", lost, sent, gap)
	if gap > 2*time.Second {
		t.Errorf("silence of %s when a router was switched off: nobody noticed the carrier", gap)
	}
	if err := lab.PowerOn(ctx, "r1t1"); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		for _, prefix := range lab.Plan.Spine.Networks {
			eventually(t, 30*time.Second, func() error { return twoLegs(h.NS, prefix) })
		}
	}
}

// addressed gives a host the first address of each of its blocks, as its agent would.
func addressed(t *testing.T, h Host) []probe.Endpoint {
	t.Helper()
	var all []probe.Endpoint
	for _, b := range h.Blocks {
		addr := b.Addr()
		if addr.Is6() {
			addr = addr.Next()
		}
		err := h.NS.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(netip.PrefixFrom(addr, addr.BitLen()).String())
			if err != nil {
				return err
			}
			return netlink.AddrAdd(lo, a)
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, probe.Endpoint{Name: h.Name, NS: h.NS, Addr: addr})
	}
	return all
}

// forwarded counts the packets that a router has sent to hosts.
func forwarded(t *testing.T, lab *Lab, router string) (n uint64) {
	t.Helper()
	r, err := lab.router(router)
	if err != nil {
		t.Fatal(err)
	}
	err = r.NS.Do(func() error {
		for _, l := range r.Links {
			link, err := netlink.LinkByName(l.Name)
			if err != nil {
				return err
			}
			if !l.Up {
				n += link.Attrs().Statistics.TxPackets
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
