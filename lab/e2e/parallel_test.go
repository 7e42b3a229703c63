package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestCNIParallel is a runtime that starts and ends many containers at the same moment.
func TestCNIParallel(t *testing.T) {
	h := newHost(t, block4, block6)
	boxes := make([]netns.NS, 15) // all that the block has
	for i := range boxes {
		boxes[i] = nstest.New(t, fmt.Sprint("box", i))
	}
	before := h.census(boxes...)
	everybody := func(verb string, each func(i int, stdout []byte)) {
		t.Helper()
		var g errgroup.Group
		for i, box := range boxes {
			g.Go(func() error {
				out, failure, err := h.shim(request{verb: verb, id: fmt.Sprint("box", i), netns: box.Path()})
				if failure != nil {
					err = failure
				}
				if err == nil {
					each(i, out)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
	}
	for range 3 {
		results := make([][]byte, len(boxes))
		everybody(relay.Add, func(i int, stdout []byte) { results[i] = stdout })
		seen := map[netip.Addr]bool{}
		for i, out := range results {
			addrs := addresses(t, result(t, out))
			h.reach(boxes[i], addrs...)
			for _, a := range addrs {
				if seen[a] {
					t.Errorf("%s was given twice", a)
				}
				seen[a] = true
			}
		}
		everybody(relay.Del, func(int, []byte) {})
		h.unchanged(before, boxes...)
	}
}
