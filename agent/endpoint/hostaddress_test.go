package endpoint_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

func setHostAddresses(t testing.TB, ns netns.NS, addrs ...string) {
	t.Helper()
	var all []netip.Addr
	for _, a := range addrs {
		all = append(all, netip.MustParseAddr(a))
	}
	if err := ns.Do(func() error { return endpoint.SetHostAddresses(all) }); err != nil {
		t.Fatalf("set %v: %v", addrs, err)
	}
}

// addAddress adds an address with a mark, which iproute2 before 6.3 does not know.
func addAddress(t testing.TB, ns netns.NS, link, prefix string, proto uint8) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	family := uint8(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		c, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		var b rtnl.Batch
		b.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		b.Address(family, uint8(p.Bits()), dev.Index)
		b.IP(unix.IFA_LOCAL, p.Addr())
		b.IP(unix.IFA_ADDRESS, p.Addr())
		b.Uint8(ifaProto, proto)
		return c.One(&b, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

const ifaProto = 11

// loopback returns the addresses on lo but the kernel's own, sorted; those with a mark have it behind.
func loopback(t testing.TB, ns netns.NS) string {
	t.Helper()
	var all []string
	err := ns.Do(func() error {
		c, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		var b rtnl.Batch
		b.Begin(unix.RTM_GETADDR, 0)
		b.Address(unix.AF_UNSPEC, 0, 1)
		return c.Dump(&b, func() { all = nil }, func(m rtnl.Message) {
			var addr netip.Addr
			mark := ""
			rtnl.Attributes(m.Payload[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
				switch typ {
				case unix.IFA_ADDRESS:
					addr = rtnl.Addr(v)
				case ifaProto:
					mark = fmt.Sprintf(" %d", v[0])
				}
			})
			if !addr.IsLoopback() {
				all = append(all, fmt.Sprintf("%v/%d%s", addr, m.Payload[1], mark))
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func TestSetHostAddresses(t *testing.T) {
	host := nstest.New(t, "host")
	ip(t, host, "addr", "add", "192.0.2.1/32", "dev", "lo")
	addAddress(t, host, "lo", "192.0.2.2/32", 99)
	ip(t, host, "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
	ip(t, host, "link", "add", "name", "x0", "type", "veth", "peer", "name", "x1")
	addAddress(t, host, "x0", "192.0.2.3/32", 176) // ours by the mark, but not the loopback's
	foreign := []string{"192.0.2.1/32", "192.0.2.2/32 99", "2001:db8::1/128"}
	for _, tc := range []struct {
		name  string
		addrs []string
		want  []string // besides the foreign ones
	}{
		{"nothing", nil, nil},
		{"add", []string{"10.64.0.0", "2001:db8:64::"}, []string{"10.64.0.0/32 176", "2001:db8:64::/128 176"}},
		{"again", []string{"10.64.0.0", "2001:db8:64::"}, []string{"10.64.0.0/32 176", "2001:db8:64::/128 176"}},
		{"one twice", []string{"10.64.0.0", "10.64.0.0"}, []string{"10.64.0.0/32 176"}},
		{"other ones", []string{"10.64.1.0", "2001:db8:65::"}, []string{"10.64.1.0/32 176", "2001:db8:65::/128 176"}},
		{"what is there already", []string{"192.0.2.1", "2001:db8::1", "192.0.2.2"}, nil},
		{"more", []string{"10.64.1.0", "10.64.2.0", "10.64.3.0"}, []string{"10.64.1.0/32 176", "10.64.2.0/32 176", "10.64.3.0/32 176"}},
		{"none", nil, nil},
	} {
		setHostAddresses(t, host, tc.addrs...)
		want := strings.Join(slices.Sorted(slices.Values(slices.Concat(tc.want, foreign))), ", ")
		if got := loopback(t, host); got != want {
			t.Errorf("%s: lo has %s, want %s", tc.name, got, want)
		}
	}
	if out := ip(t, host, "-o", "addr", "show", "dev", "x0"); !strings.Contains(out, "192.0.2.3/32") {
		t.Errorf("taken from another link: %s", out)
	}
}

// TestHostAddressesAreUsableAtOnce sends a packet to each address right after it was set.
func TestHostAddressesAreUsableAtOnce(t *testing.T) {
	host := nstest.New(t, "host")
	all := []netip.Addr{netip.MustParseAddr("10.64.0.0"), netip.MustParseAddr("2001:db8:64::")}
	echo := func(a netip.Addr) error {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte("x"), c.LocalAddr()); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	}
	for i := range 50 {
		err := host.Do(func() error {
			if err := endpoint.SetHostAddresses(all); err != nil {
				return err
			}
			if err := errors.Join(echo(all[0]), echo(all[1])); err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			return endpoint.SetHostAddresses(nil)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostAddressRefused(t *testing.T) {
	host := nstest.New(t, "host")
	err := host.Do(func() error {
		return endpoint.SetHostAddresses([]netip.Addr{netip.MustParseAddr("10.64.0.0"), netip.MustParseAddr("ff02::1")})
	})
	if err == nil || !strings.Contains(err.Error(), "host address ff02::1") {
		t.Errorf("multicast: %v", err)
	}
	if got := loopback(t, host); got != "10.64.0.0/32 176" {
		t.Errorf("the other one: %q", got)
	}
}
