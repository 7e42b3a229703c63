package bgp_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/unnumbered"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// linkLocal waits for the address that the kernel gave a link.
func linkLocal(t testing.TB, ns netns.NS, link string) netip.Addr {
	t.Helper()
	var found netip.Addr
	eventually(t, 5*time.Second, func() error {
		return ns.Do(func() error {
			ifi, err := net.InterfaceByName(link)
			if err != nil {
				return err
			}
			addrs, err := ifi.Addrs()
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
					found = p.Addr().WithZone(link)
					return nil
				}
			}
			return fmt.Errorf("%s has no link-local address: %v", link, addrs)
		})
	})
	return found
}

// bare joins a host and a router by a link without addresses of ours.
func bare(t testing.TB) (h, r netns.NS, host, tor netip.Addr) {
	t.Helper()
	h, r = nstest.New(t, "host"), nstest.New(t, "tor")
	if err := netns.Cable(netns.End{NS: h, Link: "up1"}, netns.End{NS: r, Link: "down1"}); err != nil {
		t.Fatal(err)
	}
	return h, r, linkLocal(t, h, "up1"), linkLocal(t, r, "down1").WithZone("up1")
}

func birdUnnumbered(host, tor netip.Addr, extra string) string {
	return fmt.Sprintf(`
router id 192.0.2.102;
protocol device {}
protocol static s4 { ipv4; route 0.0.0.0/0 blackhole; route 10.64.2.0/26 blackhole; }
protocol static s6 { ipv6; route ::/0 blackhole; route fd64:0:2::/64 blackhole; }
protocol bgp host {
  local %s as 65102;
  neighbor %s%%'down1' as 65001;
  passive on;
  hold time 9;
  %s
  ipv4 { import all; export where source = RTS_STATIC; extended next hop on; };
  ipv6 { import all; export where source = RTS_STATIC; };
}
`, tor.WithZone(""), host.WithZone(""), extra)
}

// TestIPv4OverLinkLocal carries both families over a link-local session, with TCP MD5 and an AS number that is not
// told beforehand.
func TestIPv4OverLinkLocal(t *testing.T) {
	t.Parallel()
	h, r, us, them := bare(t)
	b := startBIRDWith(t, r, birdUnnumbered(us, them, fmt.Sprintf("password %q;", password)))
	host := newNode(t, h, "host")
	host.configure(t, hostConfig(bgp.Peer{Address: them, Password: password}), "10.64.1.0/26", "fd64:0:1::/64")
	host.fabric.want(t, 20*time.Second, fmt.Sprintf("0.0.0.0/0 via [%[1]s]; 10.64.2.0/26 via [%[1]s]; ::/0 via [%[1]s]; fd64:0:2::/64 via [%[1]s]", them))
	wantLearned(t, b, 10*time.Second, fmt.Sprintf("10.64.1.0/26 via %[1]s; fd64:0:1::/64 via %[1]s", us.WithZone("")))
	p := host.established(t, them.String())
	if p.ASN != 65102 {
		t.Errorf("learned AS %d, want 65102", p.ASN)
	}
	if out, err := b.show("protocols", "all", "host"); err != nil || strings.Count(out, "Established") == 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestExternalRefusesOurOwnAS: a session within the AS is not what external means.
func TestExternalRefusesOurOwnAS(t *testing.T) {
	t.Parallel()
	host, tor, _, torConf := pair(t, func(h, _ *bgp.Peer) { h.ASN = 0 })
	if p := host.established(t, "10.0.1.0"); p.ASN != 65100 {
		t.Errorf("learned AS %d", p.ASN)
	}
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	torConf.ASN = 65001
	if err := tor.Configure(t.Context(), torConf); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateAdminDown || !strings.Contains(p.LastDown, "own AS number") || !strings.Contains(p.LastDown, "tried again in") {
			return fmt.Errorf("state %s, last down %q", p.State, p.LastDown)
		}
		return nil
	})
	host.fabric.want(t, 5*time.Second, "")
	torConf.ASN = 65100
	if err := tor.Configure(t.Context(), torConf); err != nil {
		t.Fatal(err)
	}
	if err := host.Enable(t.Context(), addr("10.0.1.0")); err != nil {
		t.Fatal(err)
	}
	host.established(t, "10.0.1.0")
}

func TestLocalAS(t *testing.T) {
	t.Parallel()
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 2)
	b := startBIRD(t, r)
	host := newNode(t, h, "host")
	c := hostConfig(bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102, LocalAS: 65001})
	c.ASN = 65009 // the router expects 65001
	host.configure(t, c, "10.64.1.0/26")
	host.established(t, "10.0.2.0")
	wantLearned(t, b, 10*time.Second, "10.64.1.0/26 via 10.0.2.1")
	out, err := b.show("route", "all", "10.64.1.0/26", "protocol", "host")
	if err != nil || !strings.Contains(out, "BGP.as_path: 65001\n") {
		t.Errorf("AS path: %v\n%s", err, out)
	}
}

func TestSendCommunities(t *testing.T) {
	t.Parallel()
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 2)
	b := startBIRD(t, r)
	host := newNode(t, h, "host")
	c := hostConfig(bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102})
	if err := host.Announce(t.Context(), []bgp.Announcement{{
		Prefix: pfx("10.64.1.0/26"), Communities: []uint32{65001<<16 | 7, 65535 << 16, 65534<<16 | 1, 9},
		LargeCommunities: []bgp.LargeCommunity{{Global: 4200000001, Local1: 1, Local2: 2}},
	}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		send bgp.Communities
		want string
	}{
		{"", "BGP.community: (0,9) (65001,7) (65534,1) (65535,0) BGP.large_community: (4200000001, 1, 2)"},
		{bgp.NoCommunities, "BGP.community: (65535,0)"},
		{bgp.StandardCommunities, "BGP.community: (0,9) (65001,7) (65534,1) (65535,0)"},
		{bgp.LargeCommunities, "BGP.community: (65535,0) BGP.large_community: (4200000001, 1, 2)"},
		{bgp.AllCommunities, "BGP.community: (0,9) (65001,7) (65534,1) (65535,0) BGP.large_community: (4200000001, 1, 2)"},
	} {
		c.Peers[0].Communities = tt.send
		if err := host.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func() error {
			out, err := b.show("route", "all", "10.64.1.0/26", "protocol", "host")
			var got []string
			for line := range strings.Lines(out) {
				if strings.Contains(line, "ommunit") {
					got = append(got, strings.TrimSpace(line))
				}
			}
			if err == nil && strings.Join(got, " ") != tt.want {
				err = fmt.Errorf("%q: the router has %q, want %q", tt.send, got, tt.want)
			}
			return err
		})
	}
	if p := host.peer(t, "10.0.2.0"); p.Flaps != 0 {
		t.Errorf("the session was lost %d times", p.Flaps)
	}
}

func TestMaxPrefixesRestart(t *testing.T) {
	t.Parallel()
	host, tor, conf, _ := pair(t, func(h, _ *bgp.Peer) { h.MaxPrefixes, h.MaxPrefixesRestart = 3, 2*time.Second })
	host.established(t, "10.0.1.0")
	tor.announce(t, "0.0.0.0/0", "10.64.2.0/26", "10.64.3.0/26", "10.64.5.0/26", "10.64.6.0/26")
	var restart time.Time
	shut := func() {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			p := host.peer(t, "10.0.1.0")
			if p.State != bgp.StatePrefixLimit || p.Restart.IsZero() || p.Restart.Equal(restart) {
				return fmt.Errorf("state %s, restart %s", p.State, p.Restart)
			}
			if !strings.Contains(p.LastDown, "prefix limit reached: more ipv4-unicast prefixes than allowed; tried again in ") {
				t.Errorf("last down: %q", p.LastDown)
			}
			restart = p.Restart
			return nil
		})
	}
	shut()
	first := time.Until(restart)
	shut() // it was started again, and is over its limit again
	second := time.Until(restart)
	if first > 2*time.Second || second <= 2*time.Second || second > 4*time.Second {
		t.Errorf("waits of %s and %s, want up to 2 s and then up to 4 s", first, second)
	}
	tor.announce(t, "0.0.0.0/0")
	host.established(t, "10.0.1.0")

	// Without a restart it stays shut until somebody enables it.
	conf.Peers[0].MaxPrefixesRestart = 0
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	tor.announce(t, "0.0.0.0/0", "10.64.2.0/26", "10.64.3.0/26", "10.64.5.0/26", "10.64.6.0/26")
	eventually(t, 10*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); p.State != bgp.StatePrefixLimit || !p.Restart.IsZero() || !strings.Contains(p.LastDown, "stays down until it is reset") {
			return fmt.Errorf("state %s, restart %s, last down %q", p.State, p.Restart, p.LastDown)
		}
		return nil
	})
	tor.announce(t, "0.0.0.0/0")
	if err := host.Enable(t.Context(), addr("10.0.1.0")); err != nil {
		t.Fatal(err)
	}
	host.established(t, "10.0.1.0")
}

// TestFRRUnnumbered has FRR's own kind of session by interface, with everything that protects it, and its next hops.
func TestFRRUnnumbered(t *testing.T) {
	t.Parallel()
	h, r, us, them := bare(t)
	f := startFRRWith(t, r, `
no zebra nexthop kernel enable
router bgp 65101
 bgp router-id 192.0.2.101
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 neighbor down1 interface v6only remote-as external
 neighbor down1 passive
 neighbor down1 timers 3 9
 neighbor down1 ttl-security hops 1
 neighbor down1 password `+password+`
 address-family ipv4 unicast
  neighbor down1 activate
  network 0.0.0.0/0
  network 10.64.2.0/26
 exit-address-family
 address-family ipv6 unicast
  neighbor down1 activate
  network ::/0
  network fd64:0:2::/64
 exit-address-family
`)
	host := newNode(t, h, "host")
	host.configure(t, hostConfig(bgp.Peer{Address: them, Password: password, TTLSecurity: true}), "10.64.1.0/26", "fd64:0:1::/64")
	var w *unnumbered.Watch // FRR waits for our advertisements
	if err := h.Do(func() (err error) {
		w, err = unnumbered.New([]string{"up1"}, unnumbered.Options{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.Close()
	})
	host.fabric.want(t, 20*time.Second, fmt.Sprintf("0.0.0.0/0 via [%[1]s]; 10.64.2.0/26 via [%[1]s]; ::/0 via [%[1]s]; fd64:0:2::/64 via [%[1]s]", them))
	eventually(t, 10*time.Second, func() error {
		for _, p := range []string{"ipv4 unicast 10.64.1.0/26", "ipv6 unicast fd64:0:1::/64"} {
			out, err := f.run("show bgp " + p)
			if err != nil {
				return err
			}
			if !strings.Contains(out, us.WithZone("").String()) {
				return fmt.Errorf("%s is not from us:\n%s", p, out)
			}
		}
		return nil
	})
	out, err := r.Output(t.Context(), "ip", "route", "show", "10.64.1.0/26")
	if err != nil || !strings.Contains(string(out), "via inet6 "+us.WithZone("").String()+" dev down1") && !strings.Contains(string(out), "via 169.254.0.1 dev down1") {
		t.Errorf("the router's kernel has %q, %v", out, err)
	}
	if got := w.Router("up1"); got.Addr != them || got.Problem != "" {
		t.Errorf("found %+v, want %s", got, them)
	}
}
