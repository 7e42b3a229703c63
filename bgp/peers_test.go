package bgp_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// counts renders received/accepted/advertised of each family.
func counts(p bgp.PeerStatus) string {
	var out []string
	for _, f := range p.Families {
		out = append(out, fmt.Sprintf("%s %d/%d/%d", f.Family, f.Received, f.Accepted, f.Advertised))
	}
	return strings.Join(out, " ")
}

func (n *node) wantCounts(t testing.TB, peer, want string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if got := counts(n.peer(t, peer)); got != want {
			return fmt.Errorf("peer %s: received/accepted/advertised %q, want %q", peer, got, want)
		}
		return nil
	})
}

func TestPrefixCounts(t *testing.T) {
	t.Parallel()
	for name, gr := range map[string]bgp.GracefulRestart{"graceful restart": {}, "none": {Disabled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, r1, r2 := nstest.New(t, "host"), nstest.New(t, "tor1"), nstest.New(t, "tor2")
			cable(t, h, r1, 1)
			cable(t, h, r2, 2)
			for i, ns := range []netns.NS{r1, r2} {
				tor := newNode(t, ns, fmt.Sprintf("tor%d", i+1))
				c := torConfig(bgp.Peer{Address: addr(fmt.Sprintf("10.0.%d.1", i+1)), ASN: 65001, Passive: true, Families: []bgp.Family{bgp.IPv4}})
				c.GracefulRestart, c.RouterID = gr, addr(fmt.Sprintf("192.0.2.10%d", i))
				tor.configure(t, c, "0.0.0.0/0", "10.64.2.0/26", "172.16.0.0/12", "10.64.4.0/28")
			}
			host := newNode(t, h, "host")
			c := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100, NextHop6: addr("fd00:1::1")},
				bgp.Peer{Address: addr("10.0.2.0"), ASN: 65100}, bgp.Peer{Address: addr("10.0.9.9"), ASN: 65100})
			c.GracefulRestart = bgp.GracefulRestart{}
			host.configure(t, c, "10.64.1.0/26", "10.64.1.64/26", "fd64:0:1::/64")
			// The routers speak IPv4 only; the third peer is not there.
			want := func() {
				t.Helper()
				host.wantCounts(t, "10.0.1.0", "ipv4 4/2/2 ipv6 0/0/0")
				host.wantCounts(t, "10.0.2.0", "ipv4 4/2/2 ipv6 0/0/0")
				host.wantCounts(t, "10.0.9.9", "ipv4 0/0/0 ipv6 0/0/0")
			}
			want()
			// Without ECMP the routes of one are not in use, but accepted all the same.
			c.Multipath = 1
			if err := host.Configure(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			host.established(t, "10.0.1.0")
			host.established(t, "10.0.2.0")
			want()
			if got := host.fabric.String(); strings.Contains(got, " 10.0.") { // a second leg
				t.Errorf("learned %s, want one leg each", got)
			}
		})
	}
}

func TestPeerRefusesOurOpen(t *testing.T) {
	t.Parallel()
	host, tor, _, torConf := pair(t, func(_, r *bgp.Peer) { r.ASN = 65009 })
	down := func(want string) {
		t.Helper()
		eventually(t, 20*time.Second, func() error {
			if p := host.peer(t, "10.0.1.0"); !strings.Contains(p.LastDown, want) {
				return fmt.Errorf("state %s, last down %q, want %q", p.State, p.LastDown, want)
			}
			return nil
		})
	}
	down("the peer refuses our OPEN (NOTIFICATION received): check ASN")
	torConf.Peers[0].ASN = 65001
	if err := tor.Configure(t.Context(), torConf); err != nil {
		t.Fatal(err)
	}
	host.established(t, "10.0.1.0")

	// Silence, then a router that is gone.
	tor.proc.cmd.Process.Signal(syscall.SIGSTOP)
	defer tor.proc.cmd.Process.Signal(syscall.SIGCONT)
	down("hold timer expired")
}

func TestRealRoutersRefuseOurOpen(t *testing.T) {
	t.Parallel()
	h, r1, r2 := nstest.New(t, "host"), nstest.New(t, "frr"), nstest.New(t, "bird")
	cable(t, h, r1, 1)
	cable(t, h, r2, 2)
	startFRR(t, r1)
	startBIRD(t, r2)
	host := newNode(t, h, "host")
	c := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65101, Password: password}, bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102})
	c.ASN = 65009 // both expect 65001
	host.configure(t, c, "10.64.1.0/26")
	for _, a := range []string{"10.0.1.0", "10.0.2.0"} {
		eventually(t, 20*time.Second, func() error {
			p := host.peer(t, a)
			if !strings.Contains(p.LastDown, "the peer refuses our OPEN") {
				return fmt.Errorf("peer %s: state %s, last down %q, received %+v", a, p.State, p.LastDown, p.Received)
			}
			return nil
		})
	}
}

func TestPeerWithoutGlobalAddress(t *testing.T) {
	t.Parallel()
	h, r := nstest.New(t, "host"), nstest.New(t, "bird")
	for _, ns := range []netns.NS{h, r} { // no link-local address but those below: the router knows its peer by it
		if err := ns.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := netns.Cable(netns.End{NS: h, Link: "up1", Addresses: []string{"fe80::b/64"}}, netns.End{NS: r, Link: "down1", Addresses: []string{"fe80::a/64"}}); err != nil {
		t.Fatal(err)
	}
	startBIRDWith(t, r, `
router id 192.0.2.102;
protocol device {}
protocol static s6 { ipv6; route ::/0 blackhole; route fd64:0:2::/64 blackhole; }
protocol bgp host {
  local fe80::a as 65102;
  neighbor fe80::b%'down1' as 65001;
  passive on;
  ipv6 { import all; export where source = RTS_STATIC; };
}
`)
	host := newNode(t, h, "host")
	host.configure(t, hostConfig(bgp.Peer{Address: addr("fe80::a%up1"), ASN: 65102}), "fd64:0:1::/64")
	host.fabric.want(t, 20*time.Second, "::/0 via [fe80::a%up1]; fd64:0:2::/64 via [fe80::a%up1]")
}

func TestStoppedSpeaker(t *testing.T) {
	t.Parallel()
	host := newNode(t, nstest.New(t, "host"), "host")
	host.configure(t, hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100}), "10.64.1.0/26")
	host.proc.cmd.Process.Signal(syscall.SIGSTOP)
	defer host.proc.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, 10*time.Second, func() error { // a signal takes its time, and the threads stop one by one
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", host.proc.cmd.Process.Pid))
		if err == nil && !strings.Contains(string(stat), ") T ") {
			err = errors.New("the speaker is not stopped yet")
		}
		return err
	})
	start := time.Now()
	_, err1 := host.Peers(t.Context())
	_, err2 := host.Announced(t.Context())
	if err1 == nil || err2 == nil {
		t.Errorf("answers of a stopped speaker: %v, %v", err1, err2)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("both failed after %s only", d)
	}
	if st := host.Status(); st.Err == nil || !strings.Contains(st.Err.Error(), "does not answer") {
		t.Errorf("status %+v", st)
	}
	host.proc.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, 10*time.Second, func() error {
		if _, err := host.Peers(t.Context()); err != nil {
			return err
		}
		return host.Status().Err
	})
}
