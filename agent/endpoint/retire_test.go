package endpoint_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestNobodyWaitsForTheReaper retires an endpoint while the kernel is about to be done with the one before, whose link it
// has taken away already: what is left is to wait for grace periods, some 10 ms, and that is the reaper's alone.
func TestNobodyWaitsForTheReaper(t *testing.T) {
	w, _ := newWirer(t)
	run(t, w)
	const tries = 10
	waited := 0
	for i := range tries {
		first, second := nstest.New(t, fmt.Sprint("first", i)), nstest.New(t, fmt.Sprint("second", i))
		wire(t, w, spec(first, fmt.Sprint("first", i), "10.64.0.5"))
		wire(t, w, spec(second, fmt.Sprint("second", i), "10.64.0.6"))
		retire := func(id string) <-chan struct{} {
			gone, err := w.Retire(context.Background(), endpoint.HostLink(id, "eth0"), nil)
			if err != nil {
				t.Fatal(err)
			}
			return gone
		}
		gone := retire(fmt.Sprint("first", i))
		nstest.Eventually(t, patience, func() error {
			if first.HasLink("eth0") {
				return fmt.Errorf("the container still has its link")
			}
			return nil
		})
		last := retire(fmt.Sprint("second", i))
		select {
		case <-gone:
			waited++ // or the kernel was quick
		default:
		}
		await(t, gone)
		await(t, last)
	}
	if waited > tries/2 {
		t.Errorf("%d of %d retirements returned only when the kernel was done with the one before", waited, tries)
	}
}
