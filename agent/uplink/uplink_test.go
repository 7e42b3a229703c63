package uplink_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

func TestUplinks(t *testing.T) {
	host, tor1, tor2 := nstest.New(t, "host"), nstest.New(t, "tor1"), nstest.New(t, "tor2")
	for _, c := range []struct{ host, tor netns.End }{
		{netns.End{NS: host, Link: "tor1", Addresses: []string{"172.31.0.1/31", "fd00:31::1/127"}, MTU: 9000}, netns.End{NS: tor1, Link: "h1", MTU: 9000}},
		{netns.End{NS: host, Link: "tor2", Addresses: []string{"172.31.0.3/31"}, MTU: 1600}, netns.End{NS: tor2, Link: "h1", MTU: 1600}},
	} {
		if err := netns.Cable(c.host, c.tor); err != nil {
			t.Fatal(err)
		}
	}
	peers := []netip.Addr{netip.MustParseAddr("172.31.0.0"), netip.MustParseAddr("172.31.0.2")}
	err := host.Do(func() error {
		link, err := uplink.To(peers[0])
		if err != nil || link.Name != "tor1" || link.GlobalIPv6() != netip.MustParseAddr("fd00:31::1") {
			t.Errorf("To(%s) = %+v, %v, want tor1 with fd00:31::1", peers[0], link, err)
		}
		if _, err := uplink.To(netip.MustParseAddr("192.0.2.1")); !errors.Is(err, uplink.ErrNotConnected) {
			t.Errorf("To(192.0.2.1) = %v, want not connected", err)
		}
		watch := uplink.NewWatch(append(peers, netip.MustParseAddr("192.0.2.1")))
		if got, want := watch.Found(), (uplink.Found{Names: []string{"tor1", "tor2"}, MTU: 1600}); !reflect.DeepEqual(got, want) {
			t.Errorf("found %+v, want %+v: the smaller uplink's MTU", got, want)
		}
		watch.SetPeers(peers[:1])
		if got, want := watch.Found(), (uplink.Found{Names: []string{"tor1"}, MTU: 9000}); !reflect.DeepEqual(got, want) {
			t.Errorf("found %+v, want %+v", got, want)
		}
		watch.SetPeers(nil)
		if got := watch.Found(); len(got.Names) > 0 || got.MTU != uplink.DefaultMTU {
			t.Errorf("without peers, found %+v, want nothing and MTU %d", got, uplink.DefaultMTU)
		}
		for _, tt := range []struct {
			peers  []netip.Addr
			blocks []netip.Prefix
			want   string
		}{
			{peers, nil, "172.31.0.1"},
			{peers[1:], nil, "172.31.0.3"},
			{peers, []netip.Prefix{netip.MustParsePrefix("172.31.0.0/31")}, "172.31.0.3"},
		} {
			id, err := uplink.RouterID(tt.peers, tt.blocks)
			if err != nil || id.String() != tt.want {
				t.Errorf("RouterID(%v, %v) = %v, %v, want %s", tt.peers, tt.blocks, id, err, tt.want)
			}
		}
		if id, err := uplink.RouterID(nil, []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16")}); err == nil {
			t.Errorf("RouterID from nothing but block addresses = %v, want an error", id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
