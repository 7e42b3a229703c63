package names_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/resolve"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestMovingHosts: hosts claim blocks, grow, and give the block back that their own address is in, while another asks for their
// names: by routes, and where the ToRs tell of none, by etcd.
func TestMovingHosts(t *testing.T) {
	for name, shape := range map[string]fabric.Shape{
		"BIRD":                 {Name: "nmg", Tor: tor.BIRD},
		"FRR, a default route": {Name: "nmf", Tor: tor.FRR, DefaultOnly: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shape.Racks, shape.Hosts, shape.Containers, shape.Source, shape.BlockIPv4 = 1, 2, many, fabric.Etcd, 28
			shape.Quarantine = time.Second // a block goes back when its addresses rest no more
			testMovingHosts(t, newRig(t, shape))
		})
	}
}

const many = 18 // more containers than a block has room for

func testMovingHosts(t *testing.T, r *rig) {
	first := r.own(t, "r1h1", false)
	c := asker(t, r.host(t, "r1h2").NS, r.own(t, "r1h2", false))
	addrs := make([]netip.Addr, many)
	for i := range many {
		name := fmt.Sprint("c", i)
		addrs[i] = netip.MustParseAddr(r.attach(t, "r1h1", i, name)[0])
		if i == 0 {
			settles(t, c, fqdn(name, "r1h1"), "A", "NOERROR "+addrs[i].String())
			settles(t, c, fqdn(name, "r1h9"), "A", "NXDOMAIN") // all is known
		}
		want(t, c, fqdn(name, "r1h1"), "A", "NOERROR "+addrs[i].String(), prompt)
	}
	home := netip.PrefixFrom(first, 28)
	far := slices.IndexFunc(addrs, func(a netip.Addr) bool { return !home.Contains(a) })
	if far < 0 {
		t.Fatalf("all of %v are in %s: the host has not grown", addrs, home)
	}
	name, addr := fqdn(fmt.Sprint("c", far), "r1h1"), addrs[far].String()
	settles(t, c, addr, "PTR", "NOERROR "+name+".") // a block of etcd's is told of a moment later than a lease in it is had
	for i, a := range addrs {
		if home.Contains(a) {
			r.detach(t, "r1h1", i)
		}
	}
	stop := watch(t, r, name, "NOERROR "+addr)
	if _, err := r.client(t, "r1h1").ReleaseBlocks(t.Context(), &apiv1.ReleaseBlocksRequest{Prefixes: []string{home.String()}}); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 20*time.Second, func() error {
		if now := r.own(t, "r1h1", false); now == first {
			return fmt.Errorf("%s is the host's own address still", now)
		}
		return nil
	})
	nstest.Eventually(t, 20*time.Second, func() error {
		blocks, err := r.hosts.HostBlocks(t.Context(), "r1h1")
		if err == nil && slices.Contains(blocks, home) {
			err = fmt.Errorf("%s is not given back", home)
		}
		return err
	})
	settles(t, c, name, "A", "NOERROR "+addr)
	settles(t, c, addr, "PTR", "NOERROR "+name+".")
	stop()
	settles(t, c, first.String(), "PTR", "NXDOMAIN")
}

// watch asks again and again until stop, which reports what was not so.
func watch(t *testing.T, r *rig, name, answer string) (stop func()) {
	t.Helper()
	c := asker(t, r.host(t, "r1h2").NS, r.own(t, "r1h2", false))
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	var answers []resolve.Answer
	watching.Go(func() {
		for ctx.Err() == nil {
			a, err := c.Ask(name, "A")
			if err != nil {
				a.Rcode = err.Error()
			}
			answers = append(answers, a)
			wait(ctx, 5*time.Millisecond)
		}
	})
	stop = func() {
		cancel()
		watching.Wait()
		wrong, longest := 0, time.Duration(0)
		for _, a := range answers {
			longest = max(longest, a.Took)
			if a.String() != answer {
				wrong++
			}
		}
		t.Logf("%d answers about %s, %d of them wrong, the longest took %s", len(answers), name, wrong, longest)
		if wrong > 0 {
			t.Errorf("%d of %d answers about %s were wrong", wrong, len(answers), name)
		}
	}
	t.Cleanup(func() { cancel(); watching.Wait() })
	return stop
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
