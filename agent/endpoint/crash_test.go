package endpoint_test

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestAliasComesLast follows the host end while it is wired: a crash at any moment leaves either no alias, and then the link is
// replaced at the next try, or all that belongs to the endpoint.
func TestAliasComesLast(t *testing.T) {
	w, host := newWirer(t)
	box := nstest.New(t, "box")
	s := spec(box, "c1", "10.64.0.5", "2001:db8:64::5")
	events, done := make(chan netlink.LinkUpdate, 100), make(chan struct{})
	defer close(done)
	if err := host.Do(func() error { return netlink.LinkSubscribe(events, done) }); err != nil {
		t.Fatal(err)
	}
	wire(t, w, s)
	named := 0
	for e := range events {
		if e.Attrs().Name != s.HostLink {
			continue
		}
		named++
		if e.Attrs().Alias == "" {
			continue
		}
		if e.Flags&unix.IFF_LOWER_UP == 0 {
			t.Error("the link had its alias while the container's end was not up yet")
		}
		break
	}
	if named < 2 {
		t.Error("the link had its alias from the first moment")
	}
}
