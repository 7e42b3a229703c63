package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// resolve asks the host's server from a namespace, and returns the rcode and what the records say.
func (h *host) resolve(from netns.NS, network string, server netip.Addr, name string, kind uint16) string {
	h.t.Helper()
	var conn *dns.Conn
	err := from.Do(func() (err error) {
		conn, err = dns.DialTimeout(network, netip.AddrPortFrom(server, 53).String(), patience)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	m := new(dns.Msg).SetQuestion(name, kind)
	if err := conn.WriteMsg(m); err != nil {
		h.t.Fatal(err)
	}
	r, err := conn.ReadMsg()
	if err != nil {
		h.t.Fatalf("%s: %v", name, err)
	}
	told := []string{dns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		told = append(told, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(told, " ")
}

// awaitDNS waits until queries are answered on so many addresses.
func (h *host) awaitDNS(addresses int) {
	h.t.Helper()
	h.eventually("DNS is answered", func() error {
		s, err := h.client.GetStatus(h.t.Context(), &apiv1.GetStatusRequest{})
		if n := len(s.GetDns().GetListeners()); err == nil && n != addresses {
			err = fmt.Errorf("answered on %d addresses", n)
		}
		return err
	})
}

// TestNames: a container's name answers when its attach has returned, to containers and to the host, and no more when its detach has.
func TestNames(t *testing.T) {
	h := newHost(t, block4, block6)
	box, client := nstest.New(t, "box"), nstest.New(t, "client")
	h.mustAttach("client", client)
	own4, own6 := block4.Addr(), block6.Addr()
	h.awaitDNS(2)
	name := "web-1." + h.name + ".fabric.internal."
	for round := range 20 {
		resp, err := h.client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "web", Interface: "eth0", Netns: box.Path(), Name: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		addrs := resp.GetEndpoint().GetAddresses()
		reverse, err := dns.ReverseAddr(addrs[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []struct {
			from    netns.NS
			network string
			server  netip.Addr
			name    string
			kind    uint16
			want    string
		}{
			{client, "udp", own4, name, dns.TypeA, "NOERROR " + addrs[0]},
			{client, "tcp", own6, name, dns.TypeAAAA, "NOERROR " + addrs[1]},
			{h.ns, "udp", own6, reverse, dns.TypePTR, "NOERROR " + name},
		} {
			if got := h.resolve(q.from, q.network, q.server, q.name, q.kind); got != q.want {
				t.Fatalf("round %d: %s by %s from %s: %s, want %s", round, q.name, q.network, q.from.Name, got, q.want)
			}
		}
		h.detach("web")
		for _, q := range []struct {
			name string
			kind uint16
		}{{name, dns.TypeA}, {reverse, dns.TypePTR}} {
			if got := h.resolve(client, "udp", own4, q.name, q.kind); got != "NXDOMAIN" {
				t.Fatalf("round %d: after the detach %s is %s", round, q.name, got)
			}
		}
	}
	if out := h.hostfabric("status"); !strings.Contains(out, h.name+".fabric.internal on 10.64.0.0:53 [fd00:64::]:53, forwards ") {
		t.Errorf("status prints\n%s\nwithout DNS", out)
	}
}
