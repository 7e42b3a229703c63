package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func TestLinks(t *testing.T) {
	host, tor := nstest.New(t, "host"), nstest.New(t, "tor")
	for i, a := range [][2]string{{"172.31.0.1/31", "172.31.0.0/31"}, {"fe80::1/64", "fe80::a/64"}, {"172.31.0.5/31", "172.31.0.4/31"}} {
		if err := netns.Cable(
			netns.End{NS: host, Link: fmt.Sprintf("up%d", i+1), Addresses: a[:1]}, netns.End{NS: tor, Link: fmt.Sprintf("down%d", i+1), Addresses: a[1:]},
		); err != nil {
			t.Fatal(err)
		}
	}
	set := func(link string, change func(netlink.Link) error) {
		t.Helper()
		if err := tor.Do(func() error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			return change(l)
		}); err != nil {
			t.Fatal(err)
		}
	}
	events := make(chan string, 10)
	say := func(word string) func(netip.Addr, string) {
		return func(p netip.Addr, link string) { events <- fmt.Sprintf("%s %s %s", word, p, link) }
	}
	want := func(what string) {
		t.Helper()
		start := time.Now()
		deadline := time.NewTimer(3 * time.Second)
		defer deadline.Stop()
		select {
		case got := <-events:
			if got != what {
				t.Errorf("told %q, want %q", got, what)
			}
			t.Logf("%s: told after %s", what, time.Since(start).Round(100*time.Microsecond))
		case <-deadline.C:
			t.Errorf("not told %q", what)
		}
	}
	peer1, peer2 := netip.MustParseAddr("172.31.0.0"), netip.MustParseAddr("fe80::a%up2")
	var links *uplink.Links
	if err := host.Do(func() (err error) {
		links, err = uplink.NewLinks([]netip.Addr{peer1, peer2}, uplink.LinkEvents{Down: say("down"), Up: say("up")}, slog.New(slog.DiscardHandler))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- links.Run(ctx) }()

	// The first look is over when a peer that is added is known: its link is down.
	set("down3", netlink.LinkSetDown)
	links.SetPeers([]netip.Addr{peer1, peer2, netip.MustParseAddr("fe80::c%up3")})
	want("down fe80::c%up3 up3")
	set("down1", netlink.LinkSetDown)
	want("down 172.31.0.0 up1")
	set("down1", netlink.LinkSetUp)
	want("up 172.31.0.0 up1")
	set("down2", netlink.LinkSetDown)
	want("down fe80::a%up2 up2")
	set("down2", netlink.LinkSetUp)
	want("up fe80::a%up2 up2")
	set("down2", netlink.LinkDel)
	want("down fe80::a%up2 up2")
	cancel()
	if err := errors.Join(<-done, links.Close()); err != nil {
		t.Error(err)
	}
	select {
	case extra := <-events:
		t.Errorf("told %q as well", extra)
	default:
	}
}
