package firewall_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/spoof"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// The addresses of the rig. The ToR has those of what is behind it as well.
var (
	own = prefixes("10.64.0.0/26", "fd00:64::/64")

	host4, host6   = netip.MustParseAddr("10.64.0.0"), netip.MustParseAddr("fd00:64::")
	box4, box6     = netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("fd00:64::1")
	other4, other6 = netip.MustParseAddr("10.64.0.2"), netip.MustParseAddr("fd00:64::2")
	uplink4        = netip.MustParseAddr("172.31.0.1")
	uplink6        = netip.MustParseAddr("fd00:31::1")
	tor4, tor6     = netip.MustParseAddr("172.31.0.0"), netip.MustParseAddr("fd00:31::")
	far4, far6     = netip.MustParseAddr("10.64.0.65"), netip.MustParseAddr("fd00:64:1::1") // a container of another host
	www4, www6     = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// rig is a host with two containers and an uplink.
type rig struct {
	host, box, other, tor netns.NS
	boxLink, otherLink    string // host ends
	firewall              *firewall.Firewall
}

func newRig(t testing.TB, p firewall.Policy) *rig {
	t.Helper()
	r := &rig{host: nstest.New(t, "host"), box: nstest.New(t, "box"), other: nstest.New(t, "other"), tor: nstest.New(t, "tor")}
	for _, ns := range []netns.NS{r.host, r.tor} {
		for key, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
			"ipv6/conf/default/accept_dad": "0", // which an uplink would else wait for
		} {
			if err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := netns.Cable(
		netns.End{NS: r.host, Link: "uplink", Addresses: []string{"172.31.0.1/31", "fd00:31::1/127"}},
		netns.End{NS: r.tor, Link: "host", Addresses: []string{"172.31.0.0/31", "fd00:31::/127"}},
	); err != nil {
		t.Fatal(err)
	}
	ip(t, r.tor, "address add 10.64.0.65/32 dev lo", "address add 198.51.100.1/32 dev lo", "address add fd00:64:1::1/128 dev lo", "address add 2001:db8::1/128 dev lo",
		"route add 10.64.0.0/26 via 172.31.0.1", "route add fd00:64::/64 via fd00:31::1")
	ip(t, r.host, "address add 10.64.0.0/32 dev lo", "address add fd00:64::/128 dev lo",
		"route add default via 172.31.0.0", "route add default via fd00:31::", "route add blackhole 10.64.0.0/26", "route add blackhole fd00:64::/64")
	err := r.host.Do(func() (err error) {
		if r.firewall, err = firewall.New(p, own, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			return err
		}
		return r.firewall.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.firewall.Close(); err != nil {
			t.Error(err)
		}
	})
	r.boxLink, r.otherLink = r.wire(t, r.box, box4, box6), r.wire(t, r.other, other4, other6)
	return r
}

// wire attaches a container as the agent does: the real links, and a host route for each address.
func (r *rig) wire(t testing.TB, box netns.NS, addrs ...netip.Addr) string {
	t.Helper()
	link := endpoint.HostLink(box.Name, "eth0")
	if err := r.host.Do(func() error {
		w, err := endpoint.New(endpoint.Options{})
		if err != nil {
			return err
		}
		defer w.Close()
		_, err = w.Wire(t.Context(), endpoint.Spec{HostLink: link, ContainerLink: "eth0", Netns: box.Path(), Addrs: addrs})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip(t, r.host, fmt.Sprintf("route add %s dev %s", a, link))
	}
	return link
}

func (r *rig) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.firewall.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (r *rig) dropped(t testing.TB) firewall.Dropped {
	t.Helper()
	d, err := r.firewall.Dropped()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// link opens a container's link for raw frames.
func link(t *testing.T, ns netns.NS) *spoof.Link {
	t.Helper()
	l, err := spoof.OpenLink(ns, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// sink closes a sink with the test.
func sink(t *testing.T) func(*spoof.Sink, error) *spoof.Sink {
	return func(s *spoof.Sink, err error) *spoof.Sink {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}

// ip runs ip(8) in a namespace, once for each command, and returns what the last one printed.
func ip(t testing.TB, ns netns.NS, commands ...string) (last string) {
	t.Helper()
	for _, c := range commands {
		last = run(t, ns, "ip", strings.Fields(c)...)
	}
	return last
}

func run(t testing.TB, ns netns.NS, name string, args ...string) string {
	t.Helper()
	out, err := ns.Output(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
