package firewall_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/spoof"
)

func newFirewall(t *testing.T, ns netns.NS, p firewall.Policy) *firewall.Firewall {
	t.Helper()
	var f *firewall.Firewall
	if err := ns.Do(func() (err error) {
		f, err = firewall.New(p, own, slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func ruleset(t testing.TB, ns netns.NS) string {
	t.Helper()
	return run(t, ns, "nft", "list", "ruleset")
}

// rules are the table without its counters' values.
func rules(ns netns.NS) (string, error) {
	out, err := ns.Output(context.Background(), "nft", "--stateless", "list", "table", "inet", "hostfabric")
	return string(out), err
}

// TestTableText is the whole table, as nft(8) shows it.
func TestTableText(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t, "host")
	f := newFirewall(t, ns, firewall.Policy{
		Enabled: true, Closed: []firewall.Port{{Protocol: firewall.TCP, Number: 179}, {Protocol: firewall.UDP, Number: 3784}, {Protocol: firewall.UDP, Number: 3785}},
		Masquerade: true, Except: prefixes("10.0.0.0/8", "10.64.0.0/12", "fd00::/8", "ff00::/8"),
	})
	if err := f.Err(); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/table.nft")
	if err != nil {
		t.Fatal(err)
	}
	if got := ruleset(t, ns); got != string(want) {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
	f.SetPolicy(firewall.Policy{})
	if got := ruleset(t, ns); got != "" || f.Err() != nil {
		t.Errorf("turned off, it leaves\n%s%v", got, f.Err())
	}
}

// TestRepair does to the table what administrators and other programs do.
func TestRepair(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true, Closed: []firewall.Port{{Protocol: firewall.TCP, Number: 179}}})
	theirs := "table ip theirs {\n\tchain c {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n"
	run(t, r.host, "nft", "table ip theirs { chain c { type filter hook input priority 0; }; }")
	r.run(t)
	l := link(t, r.box)
	lie := spoof.Packet{Kind: spoof.UDP, From: other4, To: www4, Number: 1}
	if err := l.SendPacket(endpoint.HostMAC(), lie); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, patience, func() error {
		if d := r.dropped(t); d.SpoofedIPv4 != 1 {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	want, err := rules(r.host)
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{
		"flush ruleset; table ip theirs { chain c { type filter hook input priority 0; }; }",
		"delete table inet hostfabric",
		"flush table inet hostfabric",
		"flush chain inet hostfabric confine",
		"insert rule inet hostfabric confine accept",
		"flush set inet hostfabric closed_tcp",
		"add element inet hostfabric closed_tcp { 22 }",
		"chain inet hostfabric close { policy drop; }",
	} {
		begin := time.Now()
		run(t, r.host, "nft", damage)
		nstest.Eventually(t, 2*time.Second, func() error {
			got, err := rules(r.host)
			if err == nil && got != want {
				err = fmt.Errorf("after %q there is\n%s", damage, got)
			}
			return err
		})
		t.Logf("%q: seen as before %s later", damage, time.Since(begin).Round(time.Millisecond))
	}
	if got := ruleset(t, r.host); !strings.Contains(got, theirs) {
		t.Errorf("the table of somebody else is gone:\n%s", got)
	}
	if err := l.SendPacket(endpoint.HostMAC(), lie); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, patience, func() error {
		if d := r.dropped(t); d.SpoofedIPv4 != 1 {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
}

// TestAnotherAgent takes a table over that an earlier agent left, counters and all.
func TestAnotherAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true})
	if err := link(t, r.box).SendPacket(endpoint.HostMAC(), spoof.Packet{Kind: spoof.UDP, From: other6, To: www6}); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, patience, func() error {
		if d := r.dropped(t); d.SpoofedIPv6 != 1 {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	before := ruleset(t, r.host)
	f := newFirewall(t, r.host, firewall.Policy{Enabled: true})
	if got := ruleset(t, r.host); got != before || f.Err() != nil {
		t.Errorf("the next agent, %v, made\n%s\nof\n%s", f.Err(), got, before)
	}
}

// TestClosedPorts tries what of the host is closed to containers and what is not.
func TestClosedPorts(t *testing.T) {
	t.Parallel()
	shut := firewall.Policy{Enabled: true, Closed: []firewall.Port{{Protocol: firewall.TCP, Number: 9179}, {Protocol: firewall.UDP, Number: 3784}}}
	r := newRig(t, shut)
	for _, a := range []netip.Addr{host4, host6, uplink4} {
		listen(t, r.host, netip.AddrPortFrom(a, 9179))
		listen(t, r.host, netip.AddrPortFrom(a, 3784)) // closed for UDP alone
	}
	reach := func(ns netns.NS, a netip.Addr, port uint16, timeout time.Duration) error {
		c, err := dial(ns, netip.AddrPortFrom(a, port).String(), timeout)
		if err == nil {
			c.Close()
		}
		return err
	}
	for _, a := range []netip.Addr{host4, host6, uplink4} {
		var late net.Error
		if err := reach(r.box, a, 9179, 100*time.Millisecond); !errors.As(err, &late) || !late.Timeout() {
			t.Errorf("a container reaches port 9179 of %s: %v", a, err)
		}
		if err := reach(r.box, a, 3784, patience); err != nil {
			t.Errorf("a container does not reach port 3784 of %s by TCP: %v", a, err)
		}
		if err := reach(r.tor, a, 9179, patience); err != nil {
			t.Errorf("the ToR does not reach port 9179 of %s: %v", a, err)
		}
	}
	counted := r.dropped(t).Closed
	if counted < 3 {
		t.Errorf("%d packets to closed ports were counted, want at least 3", counted)
	}
	here := sink(t)(spoof.Delivered(r.host))
	l := link(t, r.box)
	for i, port := range []uint16{3784, 3786} {
		p := spoof.Packet{Kind: spoof.UDP, From: box4, To: host4, Port: port, Number: uint32(i)}
		if err := l.SendPacket(endpoint.HostMAC(), p); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Eventually(t, patience, func() error {
		if !here.Saw(spoof.Packet{Number: 1}) {
			return errors.New("a datagram to UDP port 3786 does not arrive")
		}
		return nil
	})
	if here.Saw(spoof.Packet{Number: 0}) || r.dropped(t).Closed != counted+1 {
		t.Errorf("a datagram to UDP port 3784 arrived, or was not counted: %+v after %d", r.dropped(t), counted)
	}
	shut.Closed = nil
	r.firewall.SetPolicy(shut)
	if err := reach(r.box, host4, 9179, patience); err != nil {
		t.Errorf("with nothing closed, a container does not reach port 9179: %v", err)
	}
	if got := r.dropped(t).Closed; got != counted+1 {
		t.Errorf("%d packets counted after the policy changed, want the %d from before", got, counted+1)
	}
}

// TestClosedPortsInFragments hides the port in the second fragment of an IPv6 packet, behind options: the table sees the first
// one without a port, and the second one without a header.
func TestClosedPortsInFragments(t *testing.T) {
	t.Parallel()
	r := newRig(t, firewall.Policy{Enabled: true, Closed: []firewall.Port{{Protocol: firewall.UDP, Number: 3784}}})
	l, here := link(t, r.box), sink(t)(spoof.Delivered(r.host))
	send := func(p spoof.Packet, options bool) {
		t.Helper()
		whole := p.Bytes()
		next, body := byte(unix.IPPROTO_UDP), whole[40:]
		if options {
			next, body = unix.IPPROTO_DSTOPTS, append([]byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}, body...)
		}
		cut := len(body) / 2 / 8 * 8
		if options {
			cut = 8
		}
		for _, f := range []struct{ from, to, more int }{{0, cut, 1}, {cut, len(body), 0}} {
			header := []byte{next, 0, byte((f.from | f.more) >> 8), byte(f.from | f.more), 0, 0, 0, byte(p.Number)}
			packet := append(append(append([]byte(nil), whole[:40]...), header...), body[f.from:f.to]...)
			packet[5], packet[6] = byte(len(packet)-40), unix.IPPROTO_FRAGMENT
			if err := l.SendIP(endpoint.HostMAC(), packet); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(spoof.Packet{Kind: spoof.UDP, From: box6, To: host6, Port: 3784, Number: 1}, true)
	send(spoof.Packet{Kind: spoof.UDP, From: box6, To: host6, Port: 3784, Number: 2}, false)
	send(spoof.Packet{Kind: spoof.UDP, From: box6, To: host6, Port: 9999, Number: 3}, false)
	nstest.Eventually(t, patience, func() error {
		if !here.Saw(spoof.Packet{Number: 3}) {
			return errors.New("a datagram in fragments to an open port does not arrive")
		}
		return nil
	})
	for n := range uint32(2) {
		if here.Saw(spoof.Packet{Number: n + 1}) {
			t.Errorf("datagram %d in fragments to a closed port arrives", n+1)
		}
	}
}

// TestMasquerade looks at who the world sees.
func TestMasquerade(t *testing.T) {
	t.Parallel()
	p := firewall.Policy{Enabled: true, Masquerade: true, Except: prefixes("10.64.0.0/12", "fd00:64::/32")}
	r := newRig(t, p)
	sees := func(from netns.NS, to, want netip.Addr) {
		t.Helper()
		at := r.tor
		if to == other4 || to == other6 {
			at = r.other
		}
		var seen netip.Addr
		var l net.Listener
		if err := at.Do(func() (err error) {
			l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := dial(from, l.Addr().String(), patience)
		if err != nil {
			t.Errorf("no connection to %s: %v", to, err)
			return
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if seen = s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); seen != want {
			t.Errorf("%s sees a container as %s, want %s", to, seen, want)
		}
	}
	for _, c := range []struct{ to, want netip.Addr }{
		{www4, uplink4}, {www6, uplink6}, {far4, box4}, {far6, box6}, {other4, box4}, {other6, box6},
	} {
		sees(r.box, c.to, c.want)
	}
	r.firewall.SetBlocks(prefixes("10.64.0.64/26")) // those of the rig went
	sees(r.box, www4, box4)
	r.firewall.SetBlocks(own)
	sees(r.box, www4, uplink4)
	p.Masquerade = false
	r.firewall.SetPolicy(p)
	for _, c := range []struct{ to, want netip.Addr }{{www4, box4}, {www6, box6}} {
		sees(r.box, c.to, c.want)
	}
}

// TestWithoutRights has the kernel refuse the table: the firewall says so, and has it as soon as it may.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t, "host")
	var f *firewall.Firewall
	err := ns.Do(func() error { // on a thread of its own
		if err := dropNetAdmin(); err != nil {
			return err
		}
		var err error
		f, err = firewall.New(firewall.Policy{Enabled: true}, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.Err(); err == nil || !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("without CAP_NET_ADMIN: %v", err)
	}
	(&rig{firewall: f}).run(t)
	nstest.Eventually(t, patience, f.Err)
	if got := ruleset(t, ns); !strings.Contains(got, "table inet hostfabric {") {
		t.Errorf("there is no table:\n%s", got)
	}
}

// dropNetAdmin takes CAP_NET_ADMIN from the calling thread.
func dropNetAdmin() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&header, &data[0])
}
