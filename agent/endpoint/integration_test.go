package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes"
	"github.com/hostfabric/hostfabric/routes/kernel"
)

// TestContainersTalk wires containers, writes their host routes as the agent does, and sends real packets between
// them, with nothing on the host but forwarding turned on.
func TestContainersTalk(t *testing.T) {
	w, host := newWirer(t)
	table := newTable(t, host)
	forward(t, host)
	const n = 4
	var containers []netns.NS
	var specs []endpoint.Spec
	for i := range n {
		box := nstest.New(t, fmt.Sprint("c", i))
		s := spec(box, fmt.Sprint("c", i), fmt.Sprintf("10.64.0.%d", i+1), fmt.Sprintf("2001:db8:64::%d", i+1))
		wire(t, w, s)
		for _, a := range s.Addrs {
			r := routes.Route{Prefix: netip.PrefixFrom(a, a.BitLen()), NextHops: []routes.NextHop{{Link: s.HostLink}}}
			if err := table.Upsert(t.Context(), routes.Endpoints, r); err != nil {
				t.Fatal(err)
			}
		}
		containers, specs = append(containers, box), append(specs, s)
	}
	for i := range n {
		for j := range n {
			for k := range 2 {
				if i != j {
					exchange(t, containers[i], containers[j], specs[i].Addrs[k], specs[j].Addrs[k])
				}
			}
		}
	}
	// Nobody had to ask for a neighbour. Multicast needs no asking and is listed as NOARP.
	for _, ns := range append(containers, host) {
		for line := range strings.Lines(ip(t, ns, "neigh", "show", "nud", "all")) {
			if !strings.Contains(line, "PERMANENT") && !strings.Contains(line, "NOARP") {
				t.Errorf("%s resolved %s", ns.Name, line)
			}
		}
	}
	// The runtime deletes a namespace first; afterwards the host has nothing of it.
	if err := containers[0].Delete(); err != nil {
		t.Fatal(err)
	}
	for _, a := range specs[0].Addrs {
		if err := table.Delete(t.Context(), routes.Endpoints, netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	run(t, w)
	gone, err := w.Retire(t.Context(), specs[0].HostLink, specs[0].Addrs)
	if err != nil {
		t.Fatal(err)
	}
	await(t, gone)
	if left := ip(t, host, "route") + ip(t, host, "-6", "route") + ip(t, host, "link"); strings.Contains(left, specs[0].HostLink) {
		t.Errorf("left:\n%s", left)
	}
}

// TestTheFirstPacketArrives sends one datagram to, and one from, each container the moment it is wired and routed: an
// end of a veth drops everything until the kernel has noticed its carrier.
func TestTheFirstPacketArrives(t *testing.T) {
	w, host := newWirer(t)
	table := newTable(t, host)
	forward(t, host)
	connect := func(i int) (netns.NS, []netip.Addr) {
		box := nstest.New(t, fmt.Sprint("c", i))
		s := spec(box, fmt.Sprint("c", i), fmt.Sprintf("10.64.0.%d", i+1), fmt.Sprintf("2001:db8:64::%d", i+1))
		wire(t, w, s)
		for _, a := range s.Addrs {
			r := routes.Route{Prefix: netip.PrefixFrom(a, a.BitLen()), NextHops: []routes.NextHop{{Link: s.HostLink}}}
			if err := table.Upsert(t.Context(), routes.Endpoints, r); err != nil {
				t.Fatal(err)
			}
		}
		return box, s.Addrs
	}
	first, a := connect(0)
	for i := range 100 {
		box, b := connect(i + 1)
		k := i / 2 % 2 // by turns either family, either way
		if i%2 == 0 {
			exchange(t, first, box, a[k], b[k])
		} else {
			exchange(t, box, first, b[k], a[k])
		}
	}
}

func newTable(t *testing.T, host netns.NS) *routes.Table {
	t.Helper()
	var fib *kernel.FIB
	if err := host.Do(func() (err error) {
		fib, err = kernel.New(kernel.Options{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	table := routes.NewTable(fib, routes.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, fib.Close()); err != nil {
			t.Error(err)
		}
	})
	return table
}

func forward(t testing.TB, host netns.NS) {
	t.Helper()
	if err := host.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0), // strict
		)
	}); err != nil {
		t.Fatal(err)
	}
}

// exchange sends a datagram from one container to the other, sees where it says it comes from, and answers it. The
// host has to send the question and the answer on without ever asking who has an address.
func exchange(t *testing.T, from, to netns.NS, src, dst netip.Addr) {
	t.Helper()
	var server, client *net.UDPConn
	if err := to.Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 7)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := from.Do(func() (err error) {
		client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 7)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deadline := time.Now().Add(5 * time.Second)
	if err := errors.Join(server.SetDeadline(deadline), client.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, peer, err := server.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "ping" || peer.Addr().Unmap() != src {
		t.Fatalf("%v to %v: got %q from %v, %v", src, dst, buf[:n], peer, err)
	}
	if _, err := server.WriteToUDPAddrPort([]byte("pong"), peer); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "pong" {
		t.Fatalf("%v to %v: answer %q, %v", src, dst, buf[:n], err)
	}
}

func TestWireConcurrently(t *testing.T) {
	w, host := newWirer(t)
	run(t, w)
	const n = 32
	var group errgroup.Group
	for i := range n {
		box := nstest.New(t, fmt.Sprint("c", i))
		group.Go(func() error {
			s := spec(box, fmt.Sprint("c", i), fmt.Sprintf("10.64.0.%d", i+1))
			for range 3 {
				if _, err := w.Wire(t.Context(), s); err != nil {
					return err
				}
				if _, err := w.Inspect(t.Context(), s); err != nil {
					return err
				}
				gone, err := w.Retire(t.Context(), s.HostLink, s.Addrs)
				if err != nil {
					return err
				}
				<-gone
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := links(t, host); got != "" {
		t.Errorf("left: %s", got)
	}
}
