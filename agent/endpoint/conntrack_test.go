package endpoint_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// flow is a connection to put on record: "from to" as it was sent, and "from to" of its answers, which differ from the
// first two where it is translated.
type flow struct{ sent, answered string }

// addConnections puts connections on record in the namespace, each with a source port of its own.
func addConnections(t testing.TB, ns netns.NS, protocol uint8, flows ...flow) {
	t.Helper()
	err := ns.Do(func() error {
		for i, f := range flows {
			from, to, _ := strings.Cut(f.sent, " ")
			back, us, _ := strings.Cut(f.answered, " ")
			c := netlink.ConntrackFlow{
				FamilyType: unix.AF_INET, TimeOut: 3600,
				Forward: netlink.IPTuple{SrcIP: bytesOf(from), DstIP: bytesOf(to), SrcPort: uint16(1024 + i%50_000), DstPort: uint16(80 + i/50_000), Protocol: protocol},
			}
			c.Reverse = netlink.IPTuple{SrcIP: bytesOf(back), DstIP: bytesOf(us), SrcPort: c.Forward.DstPort, DstPort: c.Forward.SrcPort, Protocol: protocol}
			if len(c.Forward.SrcIP) == 16 {
				c.FamilyType = unix.AF_INET6
			}
			if protocol == unix.IPPROTO_TCP {
				c.ProtoInfo = &netlink.ProtoInfoTCP{State: 3} // established
			}
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(c.FamilyType), &c); err != nil {
				return fmt.Errorf("%v: %w", f, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func bytesOf(a string) []byte { return netip.MustParseAddr(a).AsSlice() }

// connections returns what is on record in the namespace as "protocol from to, from to", sorted.
func connections(t testing.TB, ns netns.NS) []string {
	t.Helper()
	var all []string
	err := ns.Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, c := range list {
				all = append(all, fmt.Sprintf("%d %v %v, %v %v", c.Forward.Protocol, c.Forward.SrcIP, c.Forward.DstIP, c.Reverse.SrcIP, c.Reverse.DstIP))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// staleFlows are connections of the first address, neighbourFlows those that have nothing to do with it.
var (
	staleFlows = []flow{
		{"10.64.0.5 192.0.2.1", "192.0.2.1 10.64.0.5"},       // as source
		{"192.0.2.1 10.64.0.5", "10.64.0.5 192.0.2.1"},       // as destination
		{"10.64.0.5 192.0.2.1", "192.0.2.1 198.51.100.1"},    // masqueraded
		{"192.0.2.1 198.51.100.1", "10.64.0.5 192.0.2.1"},    // a port of the host's
		{"198.51.100.1 192.0.2.1", "192.0.2.1 10.64.0.5"},    // answered to it alone
		{"198.51.100.1 10.64.0.5", "192.0.2.9 198.51.100.1"}, // sent to it alone
		{"2001:db8:64::5 2001:db8::1", "2001:db8::1 2001:db8:64::5"},
		{"2001:db8::1 2001:db8:64::5", "2001:db8:64::5 2001:db8::1"},
		{"2001:db8:64::5 2001:db8::1", "2001:db8::1 2001:db8:f::1"},
		{"2001:db8::1 2001:db8:f::1", "2001:db8:64::5 2001:db8::1"},
	}
	neighbourFlows = []flow{
		{"10.64.0.6 192.0.2.1", "192.0.2.1 10.64.0.6"},
		{"192.0.2.1 198.51.100.1", "10.64.0.6 192.0.2.1"},
		{"2001:db8:64::6 2001:db8::1", "2001:db8::1 2001:db8:64::6"},
		{"10.64.0.50 10.64.0.55", "10.64.0.55 10.64.0.50"},
	}
)

// TestConnectionsAreForgotten retires containers with connections on record, with the link and when the runtime took
// it away first.
func TestConnectionsAreForgotten(t *testing.T) {
	for name, delete := range map[string]bool{"link": false, "no link": true} {
		t.Run(name, func(t *testing.T) {
			w, host := newWirer(t)
			run(t, w)
			box := nstest.New(t, "box")
			s := spec(box, "c1", "10.64.0.5", "2001:db8:64::5")
			wire(t, w, s)
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				addConnections(t, host, protocol, neighbourFlows...)
			}
			want := connections(t, host)
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				addConnections(t, host, protocol, staleFlows...)
			}
			if n := len(connections(t, host)); n != 2*(len(staleFlows)+len(neighbourFlows)) {
				t.Fatalf("%d connections on record", n)
			}
			if delete {
				ip(t, host, "link", "del", s.HostLink)
			}
			gone, err := w.Retire(t.Context(), s.HostLink, s.Addrs)
			if err != nil {
				t.Fatal(err)
			}
			await(t, gone)
			if got := connections(t, host); !slices.Equal(got, want) {
				t.Errorf("on record:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestOneFamilysConnections: an address takes no connection of the other family with it.
func TestOneFamilysConnections(t *testing.T) {
	w, host := newWirer(t)
	addConnections(t, host, unix.IPPROTO_UDP, staleFlows...)
	addConnections(t, host, unix.IPPROTO_TCP, neighbourFlows...)
	for _, a := range []string{"10.64.0.5", "2001:db8:64::5"} {
		addr := netip.MustParseAddr(a)
		want := slices.DeleteFunc(connections(t, host), func(c string) bool {
			return strings.HasPrefix(c, "17 ") && strings.Contains(c, ":") == addr.Is6()
		})
		if err := w.Flush([]netip.Addr{addr}); err != nil {
			t.Fatal(err)
		}
		if got := connections(t, host); !slices.Equal(got, want) {
			t.Errorf("after %s:\n%s\nwant:\n%s", a, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestNothingOnRecord: without a connection on record there is nothing to wait for.
func TestNothingOnRecord(t *testing.T) {
	w, host := newWirer(t)
	addrs := []netip.Addr{netip.MustParseAddr("10.64.0.5"), netip.MustParseAddr("2001:db8:64::5")}
	closed := func() bool {
		gone, err := w.Retire(t.Context(), "hfnosuch", addrs)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-gone:
			return true
		default:
			return false
		}
	}
	if !closed() {
		t.Error("waits for the reaper with nothing on record")
	}
	addConnections(t, host, unix.IPPROTO_UDP, staleFlows...)
	if closed() {
		t.Error("does not wait for the reaper with connections on record")
	}
}

// TestConnectionsThatCannotBeForgotten takes the right to see connections from the thread that is to remove them.
func TestConnectionsThatCannotBeForgotten(t *testing.T) {
	host := nstest.New(t, "host")
	var log bytes.Buffer
	var w *endpoint.Wirer
	if err := host.Do(func() (err error) {
		w, err = endpoint.New(endpoint.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	addConnections(t, host, unix.IPPROTO_UDP, staleFlows...)
	addrs := []netip.Addr{netip.MustParseAddr("10.64.0.5"), netip.MustParseAddr("2001:db8:64::5")}
	if err := host.Do(func() error { // on a thread that ends with it
		if err := dropNetAdmin(); err != nil {
			return err
		}
		w.Forget(addrs)
		w.Forget(addrs)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if out := log.String(); strings.Count(out, "\n") != 1 || !strings.Contains(out, "operation not permitted") {
		t.Errorf("logged:\n%s", out)
	}
	if n := len(connections(t, host)); n != len(staleFlows) {
		t.Errorf("%d connections on record", n)
	}
	w.Forget(addrs)
	if left := connections(t, host); len(left) > 0 {
		t.Errorf("left on record: %v", left)
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

// BenchmarkFlush is one round's flush: for one address and for a hundred, none of which has a connection, among those
// of others.
func BenchmarkFlush(b *testing.B) {
	w, host := newWirer(b)
	var flows []flow
	for i := range 100_000 {
		a := fmt.Sprintf("10.80.%d.%d", i>>8&0xff, i&0xff)
		flows = append(flows, flow{a + " 192.0.2.1", "192.0.2.1 " + a})
	}
	have := 0
	for _, entries := range []int{0, 1000, len(flows)} {
		addConnections(b, host, unix.IPPROTO_UDP, flows[have:entries]...)
		have = entries
		for _, addresses := range []int{1, 100} {
			var addrs []netip.Addr
			for i := range addresses {
				addrs = append(addrs, netip.AddrFrom4([4]byte{10, 64, 0, byte(i)}))
			}
			b.Run(fmt.Sprintf("entries=%d/addresses=%d", entries, addresses), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := w.Flush(addrs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
