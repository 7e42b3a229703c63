package bgp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
)

// TestLinkFlap joins the watch over links with the speaker, as the agent does: a session ends with its link, and is back
// soon after it.
func TestLinkFlap(t *testing.T) {
	r := newRack(t)
	downs := make(chan error, 4)
	var links *uplink.Links
	if err := r.host.ns.Do(func() (err error) {
		links, err = uplink.NewLinks([]netip.Addr{addr("10.0.1.0"), addr("10.0.2.0")}, uplink.LinkEvents{
			Down: func(p netip.Addr, link string) {
				downs <- r.host.Reset(context.Background(), p, "link "+link+" is down")
			},
		}, slog.New(slog.DiscardHandler))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- links.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, links.Close()); err != nil {
			t.Error(err)
		}
	})
	set := func(link string, change func(netlink.Link) error) {
		t.Helper()
		if err := r.host.ns.Do(func() error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			return change(l)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ link, peer, address6 string }{{"up1", "10.0.1.0", "fd00:1::1/127"}, {"up2", "10.0.2.0", "fd00:2::1/127"}} {
		start := time.Now()
		set(tt.link, netlink.LinkSetDown)
		select {
		case err := <-downs:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("not told that %s is down", tt.link)
		}
		eventually(t, 2*time.Second, func() error {
			if got := r.host.fabric.String(); strings.Contains(got, tt.peer) {
				return fmt.Errorf("learned %s", got)
			}
			return nil
		})
		gone := time.Since(start).Round(time.Millisecond)
		// Long enough for attempts that fail.
		eventually(t, 10*time.Second, func() error {
			if down := time.Since(start); down < 3*time.Second {
				return fmt.Errorf("down for %s", down)
			}
			return nil
		})
		start = time.Now()
		set(tt.link, netlink.LinkSetUp)
		if err := r.host.ns.Do(func() error { // the kernel has removed it
			l, err := netlink.LinkByName(tt.link)
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(tt.address6)
			if err != nil {
				return err
			}
			return netlink.AddrReplace(l, a)
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 15*time.Second, func() error {
			if p := r.host.peer(t, tt.peer); p.State != bgp.StateEstablished {
				return fmt.Errorf("%s, last down %s", p.State, p.LastDown)
			}
			return nil
		})
		t.Logf("link of %s: routes gone %s after it went down, session back %s after it came up", tt.peer, gone, time.Since(start).Round(10*time.Millisecond))
	}
}
