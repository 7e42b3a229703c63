package endpoint_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes"
)

func offerSpec(id string, addrs ...string) endpoint.Spec {
	s := endpoint.Spec{HostLink: endpoint.HostLink(id, "eth"), MTU: 1400, Alias: alias(id, "eth")}
	s.ContainerLink = endpoint.OfferedLink(s.HostLink)
	for _, a := range addrs {
		s.Addrs = append(s.Addrs, netip.MustParseAddr(a))
	}
	return s
}

// take does what Docker does with the link it was offered.
func take(t *testing.T, host, box netns.NS, s endpoint.Spec) {
	t.Helper()
	ip(t, host, "link", "set", s.ContainerLink, "netns", box.Name)
	ip(t, box, "link", "set", s.ContainerLink, "name", "eth0")
	for _, a := range s.Addrs {
		nodad := []string{"addr", "add", netip.PrefixFrom(a, a.BitLen()).String(), "dev", "eth0"}
		if a.Is6() {
			nodad = append(nodad, "nodad")
		}
		ip(t, box, nodad...)
	}
	ip(t, box, "link", "set", "eth0", "up")
	for _, a := range s.Addrs {
		if a.Is4() {
			ip(t, box, "route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
			ip(t, box, "route", "add", "default", "via", "169.254.1.1")
		} else {
			ip(t, box, "-6", "route", "add", "fe80::1", "dev", "eth0")
			ip(t, box, "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
		}
	}
}

// TestOfferedLinksTalk has a runtime take the links, and sends packets at once: neither the host nor a container asks anybody, and
// the host would not answer.
func TestOfferedLinksTalk(t *testing.T) {
	w, host := newWirer(t)
	table := newTable(t, host)
	forward(t, host)
	var boxes []netns.NS
	specs := []endpoint.Spec{offerSpec("c1", "10.64.0.1", "2001:db8:64::1"), offerSpec("c2", "10.64.0.2", "2001:db8:64::2")}
	mac, _ := net.ParseMAC("02:42:aa:bb:cc:dd")
	specs[1].MAC = mac
	for _, s := range specs {
		e, err := w.Offer(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if s.MAC != nil && e.ContainerMAC.String() != s.MAC.String() || e.MTU != 1400 {
			t.Errorf("offered %+v", e)
		}
		for _, a := range s.Addrs {
			r := routes.Route{Prefix: netip.PrefixFrom(a, a.BitLen()), NextHops: []routes.NextHop{{Link: s.HostLink}}}
			if err := table.Upsert(t.Context(), routes.Endpoints, r); err != nil {
				t.Fatal(err)
			}
		}
		box := nstest.New(t, fmt.Sprint("c", len(boxes)))
		take(t, host, box, s)
		if got := ip(t, box, "link", "show", "eth0"); !strings.Contains(got, e.ContainerMAC.String()) || !strings.Contains(got, "mtu 1400") {
			t.Errorf("taken: %s", got)
		}
		boxes = append(boxes, box)
	}
	for k := range 2 {
		exchange(t, boxes[0], boxes[1], specs[0].Addrs[k], specs[1].Addrs[k])
		exchange(t, boxes[1], boxes[0], specs[1].Addrs[k], specs[0].Addrs[k])
	}
	for _, ns := range append(boxes, host) {
		for line := range strings.Lines(ip(t, ns, "neigh", "show", "nud", "all")) {
			if strings.HasPrefix(line, "fe80::") && ns == host {
				continue // whoever solicited routers, which nobody answers
			}
			if !strings.Contains(line, "PERMANENT") && !strings.Contains(line, "NOARP") {
				t.Errorf("%s resolved %s", ns.Name, line)
			}
		}
	}

	live, err := w.List(t.Context())
	if err != nil || len(live) != 2 || len(live[0].Addrs) != 2 || live[0].MTU != 1400 {
		t.Errorf("listed %+v, %v", live, err)
	}
	// One container's end comes back before it is retired, as when a container is disconnected; the other's does not.
	ip(t, boxes[0], "link", "set", "eth0", "down")
	ip(t, boxes[0], "link", "set", "eth0", "name", specs[0].ContainerLink)
	ip(t, boxes[0], "link", "set", specs[0].ContainerLink, "netns", host.Name)
	run(t, w)
	for _, s := range specs {
		gone, err := w.Retire(t.Context(), s.HostLink, s.Addrs)
		if err != nil {
			t.Fatal(err)
		}
		await(t, gone)
	}
	if left := links(t, host) + links(t, boxes[1]); left != "" {
		t.Errorf("left: %s", left)
	}
}

func TestOfferRefuses(t *testing.T) {
	w, host := newWirer(t)
	good := offerSpec("c1", "10.64.0.1")
	bad := func(change func(*endpoint.Spec)) endpoint.Spec {
		s := good
		change(&s)
		return s
	}
	for name, s := range map[string]endpoint.Spec{
		"namespace":    bad(func(s *endpoint.Spec) { s.Netns = host.Path() }),
		"no address":   bad(func(s *endpoint.Spec) { s.Addrs = nil }),
		"MTU":          bad(func(s *endpoint.Spec) { s.MTU = -1 }),
		"group MAC":    bad(func(s *endpoint.Spec) { s.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }),
		"short MAC":    bad(func(s *endpoint.Spec) { s.MAC = net.HardwareAddr{2, 0, 0} }),
		"no MAC":       bad(func(s *endpoint.Spec) { s.MAC = make(net.HardwareAddr, 6) }),
		"link's name":  bad(func(s *endpoint.Spec) { s.ContainerLink = "a/b" }),
		"no host link": bad(func(s *endpoint.Spec) { s.HostLink = "" }),
	} {
		if _, err := w.Offer(t.Context(), s); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Offer(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Offer(t.Context(), good); err != nil { // its own leftover
		t.Errorf("again: %v", err)
	}
	other := good
	other.Alias = alias("c2", "eth")
	if _, err := w.Offer(t.Context(), other); !errors.Is(err, endpoint.ErrLinkExists) {
		t.Errorf("over another's: %v", err)
	}
	taken := offerSpec("c3", "10.64.0.3")
	ip(t, host, "link", "add", taken.ContainerLink, "type", "bridge")
	if _, err := w.Offer(t.Context(), taken); !errors.Is(err, endpoint.ErrLinkExists) {
		t.Errorf("beside a link of the name: %v", err)
	}
	if got := links(t, host); strings.Contains(got, taken.HostLink) || !strings.Contains(got, good.HostLink) {
		t.Errorf("links: %s", got)
	}
}
