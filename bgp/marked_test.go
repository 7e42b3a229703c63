package bgp_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestMarksFollowAnnouncements: large communities reach the other side, and a change of them alone does too, in the same session
// and without the route's going.
func TestMarksFollowAnnouncements(t *testing.T) {
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 1)
	tor, host := newNode(t, r, "tor"), newNode(t, h, "host")
	block := pfx("10.64.2.0/26")
	announce := func(marks ...bgp.LargeCommunity) {
		t.Helper()
		if err := tor.Announce(t.Context(), []bgp.Announcement{{Prefix: block, LargeCommunities: marks}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(marks string) {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			host.fabric.mu.Lock()
			defer host.fabric.mu.Unlock()
			if got := fmt.Sprint(host.fabric.marks[block]); got != marks {
				return fmt.Errorf("learned with %s, want %s", got, marks)
			}
			return nil
		})
	}
	announce(bgp.LargeCommunity{Global: markAdmin, Local1: 1, Local2: 7}, bgp.LargeCommunity{Global: 64500, Local1: 1, Local2: 1})
	if err := tor.Configure(t.Context(), torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true})); err != nil {
		t.Fatal(err)
	}
	if err := host.Configure(t.Context(), hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100})); err != nil {
		t.Fatal(err)
	}
	want("[{4200000176 1 7}]")
	since := host.established(t, "10.0.1.0").Since
	announce(bgp.LargeCommunity{Global: markAdmin, Local1: 1, Local2: 7}, bgp.LargeCommunity{Global: markAdmin, Local1: 2, Local2: 64})
	want("[{4200000176 1 7} {4200000176 2 64}]")
	announce()
	want("[]")
	if again := host.established(t, "10.0.1.0"); again.Since != since || again.Flaps > 0 {
		t.Errorf("the session is of %s with %d flaps, was of %s", again.Since, again.Flaps, since)
	}
	host.fabric.mu.Lock()
	defer host.fabric.mu.Unlock()
	if len(host.fabric.gone) > 0 {
		t.Errorf("withdrawn meanwhile: %v", host.fabric.gone)
	}
}
