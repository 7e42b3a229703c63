package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// TestCNIChainPortmap publishes a container's port on the host by the reference plugin, as containerd 1.6 asks for it.
func TestCNIChainPortmap(t *testing.T) {
	h := newHost(t, block4, block6)
	client := nstest.New(t, "client")
	err := netns.Cable(
		netns.End{NS: h.ns, Link: "uplink", Addresses: []string{"192.0.2.0/31", "2001:db8::/127"}},
		netns.End{NS: client, Link: "uplink", Addresses: []string{"192.0.2.1/31", "2001:db8::1/127"}})
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("the uplink's carrier and addresses are there, which the kernel may put off for a moment", func() error {
		v4, v6 := output(t, h.ns, "ip", "route", "show", "dev", "uplink"), output(t, h.ns, "ip", "-6", "route", "show", "table", "local", "dev", "uplink")
		if strings.Contains(v4, "linkdown") || !strings.Contains(v6, "local 2001:db8:: ") {
			return fmt.Errorf("routes %q, %q", v4, v6)
		}
		return nil
	})
	box := nstest.New(t, "box")
	n := h.newNetwork("1.0.0", h.plugin(nil), map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}})
	const published = `{"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}`
	before := h.census(box)

	r := result(t, n.do("add", box, published))
	checkResult(t, r, "1.0.0", h.ns, box)
	serve(t, box, 80, "hello from the container")
	host4, host6 := netip.MustParseAddrPort("192.0.2.0:18080"), netip.MustParseAddrPort("[2001:db8::]:18080")
	for _, tc := range []struct {
		from netns.NS
		to   netip.AddrPort
	}{{client, host4}, {client, host6}, {h.ns, host4}, {h.ns, host6}} {
		if got, err := fetch(t.Context(), tc.from, tc.to); err != nil || got != "hello from the container" {
			t.Errorf("from %s to %s: %q, %v", tc.from.Name, tc.to, got, err)
		}
	}
	n.do("check", box, published)

	n.do("del", box, published)
	for _, to := range []netip.AddrPort{host4, host6} {
		if got, err := fetch(t.Context(), client, to); err == nil {
			t.Errorf("after DEL %s still answers: %q", to, got)
		}
	}
	for _, command := range []string{"iptables", "ip6tables"} {
		if rules := output(t, h.ns, command, "-t", "nat", "-S"); strings.Contains(rules, "CNI-DN-") {
			t.Errorf("DEL left the container's rules of %s:\n%s", command, rules)
		}
	}
	h.unchanged(before, box)
}

// TestCNIChainBandwidth shapes a container by the reference plugin, which works on the host end that our result names.
func TestCNIChainBandwidth(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	n := h.newNetwork("1.0.0", h.plugin(nil), map[string]any{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}})
	const shaped = `{"bandwidth": {"ingressRate": 80000000, "ingressBurst": 8000000, "egressRate": 40000000, "egressBurst": 4000000}}`
	before := h.census(box)

	r := result(t, n.do("add", box, shaped))
	addrs := addresses(t, r)
	disciplines := output(t, h.ns, "tc", "qdisc", "show")
	if into := "dev " + r.Interfaces[0].Name; !strings.Contains(disciplines, into) ||
		!strings.Contains(disciplines, "rate 80Mbit") || !strings.Contains(disciplines, "rate 40Mbit") {
		t.Errorf("want 80 Mbit/s into and 40 Mbit/s out of the container at %s, have:\n%s", into, disciplines)
	}
	h.reach(box, addrs...)
	n.do("check", box, shaped)
	n.do("del", box, shaped)
	h.unchanged(before, box)
}

// serve answers every TCP connection to the port, over either family, with the text.
func serve(t *testing.T, ns netns.NS, port int, text string) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			_, _ = io.WriteString(c, text) // the client sees what is missing
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// fetch connects from inside the namespace and reads all there is.
func fetch(ctx context.Context, from netns.NS, to netip.AddrPort) (string, error) {
	var text []byte
	err := from.Do(func() error {
		// Not a net.Dialer with a name to resolve or two families to race: those would dial on other threads.
		d := net.Dialer{Timeout: 2 * time.Second, FallbackDelay: -1}
		c, err := d.DialContext(ctx, "tcp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		text, err = io.ReadAll(c)
		return err
	})
	return string(text), err
}
