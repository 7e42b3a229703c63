package bgp_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// cable joins a host to a router: addresses 10.0.<n>.0/31 and fd00:<n>::/127, the host has the odd ones.
func cable(t testing.TB, host, tor netns.NS, n int) {
	t.Helper()
	err := netns.Cable(
		netns.End{NS: host, Link: fmt.Sprintf("up%d", n), Addresses: []string{fmt.Sprintf("10.0.%d.1/31", n), fmt.Sprintf("fd00:%d::1/127", n)}},
		netns.End{NS: tor, Link: fmt.Sprintf("down%d", n), Addresses: []string{fmt.Sprintf("10.0.%d.0/31", n), fmt.Sprintf("fd00:%d::/127", n)}})
	if err != nil {
		t.Fatal(err)
	}
}

func hostConfig(peers ...bgp.Peer) bgp.Config {
	return bgp.Config{
		ASN: 65001, RouterID: addr("192.0.2.1"), Peers: peers,
		Policy: bgp.HostPolicy{
			Import:   []bgp.ImportRule{{Prefix: pfx("0.0.0.0/0")}, {Prefix: pfx("::/0")}, {Prefix: pfx("10.64.0.0/16"), MinLength: 24, MaxLength: 28}, {Prefix: pfx("fd64::/32"), MinLength: 48, MaxLength: 64}},
			OwnSpace: []netip.Prefix{pfx("10.64.1.0/26"), pfx("fd64:0:1::/64"), pfx("10.64.4.0/26"), pfx("fd64:0:4::/64")},
		},
	}
}

func torConfig(peers ...bgp.Peer) bgp.Config {
	return bgp.Config{ASN: 65100, RouterID: addr("192.0.2.100"), Listen: true, Peers: peers, Policy: bgp.TransitPolicy{}}
}

func TestTwoSpeakers(t *testing.T) {
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 1)
	tor, host := newNode(t, r, "tor"), newNode(t, h, "host")
	tor.configure(t, torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true, NextHop6: addr("fd00:1::")}),
		"0.0.0.0/0", "::/0", // accepted
		"10.64.2.0/26", "fd64:0:2::/64", // listed
		"10.64.0.0/16", "10.64.3.0/30", "172.16.0.0/12", "fd64::/32", // listed space, wrong length; not listed
		"10.64.4.0/26", "10.64.4.16/28", "10.64.0.0/23", "10.64.4.0/24", "fd64:0:4::/64", "fd64:0:4::/48", // ours, inside, covering
	)
	host.configure(t, hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100, NextHop6: addr("fd00:1::1")}), "10.64.1.0/26", "fd64:0:1::/64")
	p := host.established(t, "10.0.1.0")
	host.fabric.want(t, 10*time.Second, "0.0.0.0/0 via [10.0.1.0]; 10.64.2.0/26 via [10.0.1.0]; ::/0 via [fd00:1::]; fd64:0:2::/64 via [fd00:1::]")
	host.fabric.waitSynced(t, 1)
	if got := host.fabric.told(); got != "found synced" {
		t.Errorf("told of the speaker: %q", got)
	}
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]; fd64:0:1::/64 via [fd00:1::1]")
	if p.HoldTime != 9*time.Second || p.Keepalive != 3*time.Second {
		t.Errorf("negotiated hold time %s, keepalive %s; want 9s, 3s", p.HoldTime, p.Keepalive)
	}

	t.Run("change while up", func(t *testing.T) {
		host.announce(t, "10.64.1.0/26", "10.64.1.64/26")
		tor.fabric.want(t, 5*time.Second, "10.64.1.0/26 via [10.0.1.1]; 10.64.1.64/26 via [10.0.1.1]")
		host.announce(t, "10.64.1.64/26", "fd64:0:1::/64")
		tor.fabric.want(t, 5*time.Second, "10.64.1.64/26 via [10.0.1.1]; fd64:0:1::/64 via [fd00:1::1]")
		own, err := host.Announced(t.Context())
		if err != nil || fmt.Sprint(own) != "[10.64.1.64/26 fd64:0:1::/64]" {
			t.Errorf("Announced: %v, %v", own, err)
		}
	})
	t.Run("import rules change while up", func(t *testing.T) {
		c := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100, NextHop6: addr("fd00:1::1")})
		c.Policy = bgp.HostPolicy{Import: []bgp.ImportRule{{Prefix: pfx("172.16.0.0/12")}}}
		if err := host.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		host.fabric.want(t, 5*time.Second, "172.16.0.0/12 via [10.0.1.0]")
	})
	t.Run("session untouched by all that", func(t *testing.T) {
		if q := host.peer(t, "10.0.1.0"); !q.Since.Equal(p.Since) || q.Flaps != 0 {
			t.Errorf("session since %s with %d flaps, want since %s", q.Since, q.Flaps, p.Since)
		}
	})
	outer := t
	t.Run("client restart", func(t *testing.T) {
		before := tor.peer(t, "10.0.1.1")
		c := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100, NextHop6: addr("fd00:1::1")})
		c.Policy = bgp.HostPolicy{Import: []bgp.ImportRule{{Prefix: pfx("172.16.0.0/12")}}}
		host.stop()
		host.connect(outer)
		host.configure(t, c, "10.64.1.64/26", "fd64:0:1::/64")
		host.fabric.waitSynced(t, 1)
		host.fabric.want(t, 5*time.Second, "172.16.0.0/12 via [10.0.1.0]")
		after := tor.peer(t, "10.0.1.1")
		if !after.Since.Equal(before.Since) || after.Received.Update != before.Received.Update {
			t.Errorf("the session noticed: %+v, before %+v", after, before)
		}
	})
	t.Run("identity changes", func(t *testing.T) {
		c := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100, NextHop6: addr("fd00:1::1")})
		c.RouterID = addr("192.0.2.2")
		if err := host.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		host.established(t, "10.0.1.0")
		if id := tor.established(t, "10.0.1.1").RouterID; id != addr("192.0.2.2") {
			t.Errorf("router id at the peer: %s", id)
		}
		tor.fabric.want(t, 10*time.Second, "10.64.1.64/26 via [10.0.1.1]; fd64:0:1::/64 via [fd00:1::1]")
	})
	t.Run("peer removed", func(t *testing.T) {
		if err := host.Configure(t.Context(), hostConfig()); err != nil {
			t.Fatal(err)
		}
		tor.fabric.want(t, 5*time.Second, "")
		host.fabric.want(t, 5*time.Second, "")
	})
}
