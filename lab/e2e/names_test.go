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

// resolve asks a server from a namespace, and returns the rcode and what the records say.
func resolve(from netns.NS, network string, server netip.Addr, name string, kind uint16, within time.Duration) (string, error) {
	c, err := dial(from, network, netip.AddrPortFrom(server, 53))
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	conn := &dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, kind)); err != nil {
		return "", err
	}
	r, err := conn.ReadMsg()
	if err != nil {
		return "", err
	}
	told := []string{dns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		told = append(told, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(told, " "), nil
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
			if got, err := resolve(q.from, q.network, q.server, q.name, q.kind, patience); err != nil || got != q.want {
				t.Fatalf("round %d: %s by %s from %s: %s, %v; want %s", round, q.name, q.network, q.from.Name, got, err, q.want)
			}
		}
		h.detach("web")
		for _, q := range []struct {
			name string
			kind uint16
		}{{name, dns.TypeA}, {reverse, dns.TypePTR}} {
			if got, err := resolve(client, "udp", own4, q.name, q.kind, patience); err != nil || got != "NXDOMAIN" {
				t.Fatalf("round %d: after the detach %s is %s, %v", round, q.name, got, err)
			}
		}
	}
	if out := h.hostfabric("status"); !strings.Contains(out, h.name+".fabric.internal on 10.64.0.0:53 [fd00:64::]:53, forwards ") {
		t.Errorf("status prints\n%s\nwithout DNS", out)
	}
}

// TestNamesOutliveTheAgent: while the agent is killed and starts again, nobody is told that a name is not there.
func TestNamesOutliveTheAgent(t *testing.T) {
	h := newHost(t, block4)
	box := nstest.New(t, "box")
	name := "web-1." + h.name + ".fabric.internal."
	resp, err := h.client.Attach(t.Context(), &apiv1.AttachRequest{ContainerId: "web", Interface: "eth0", Netns: box.Path(), Name: "web-1"})
	if err != nil {
		t.Fatal(err)
	}
	want := "NOERROR " + resp.GetEndpoint().GetAddresses()[0]
	h.kill()
	ended := make(chan struct{})
	seen := make(chan map[string]int, 1)
	go func() {
		told := map[string]int{}
		for {
			got, err := resolve(box, "udp", block4.Addr(), name, dns.TypeA, 100*time.Millisecond)
			if err == nil {
				told[got]++
			}
			select {
			case <-ended:
				seen <- told
				return
			default:
			}
		}
	}()
	h.start()
	h.eventually(name+" answers", func() error {
		got, err := resolve(h.ns, "udp", block4.Addr(), name, dns.TypeA, patience)
		if err == nil && got != want {
			err = fmt.Errorf("it is %s", got)
		}
		return err
	})
	close(ended)
	told := <-seen
	t.Logf("told: %v", told)
	delete(told, "SERVFAIL")
	if delete(told, want); len(told) > 0 {
		t.Errorf("besides %s and SERVFAIL it was told %v", want, told)
	}
}
