package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// static is a directory by hand.
type static struct {
	hosts map[string][]netip.Addr
	addrs map[netip.Addr][]netip.Addr
	err   error
}

func (d *static) Host(name string) ([]netip.Addr, error) {
	if d.err != nil {
		return nil, d.err
	}
	if servers, ok := d.hosts[name]; ok {
		return servers, nil
	}
	return nil, ErrUnknown
}

func (d *static) Address(a netip.Addr) ([]netip.Addr, error) {
	if d.err != nil {
		return nil, d.err
	}
	if servers, ok := d.addrs[a]; ok {
		return servers, nil
	}
	return nil, ErrUnknown
}

// newOther runs host r2h1, at an address of the loopback.
func newOther(t *testing.T, port uint16, at string, directory Directory) *Server {
	t.Helper()
	o := Options{Settings: settings(), Names: NewZone(), Port: port, Directory: directory, Log: discard}
	o.Host = "r2h1"
	o.Listen = []netip.AddrPort{netip.AddrPortFrom(addr(at), port)}
	s := NewServer(o)
	s.SetBlocks(prefixes("10.64.4.0/24"), nil)
	s.run(t)
	s.await(t)
	return s
}

// await waits until s serves all that it is to.
func (s *Server) await(t testing.TB) {
	t.Helper()
	nstest.Eventually(t, 5*time.Second, func() error {
		if got, want := s.Status().Listeners, s.place.Load().wanted(s.opts.Port); !slices.Equal(got, want) {
			return fmt.Errorf("serves %v, want %v", got, want)
		}
		return nil
	})
}

func TestRelay(t *testing.T) {
	port := freePort(t)
	// It believes that it has to ask itself for what it does not have.
	ring := &static{hosts: map[string][]netip.Addr{"r3h1": addrs("127.0.0.2")}, addrs: map[netip.Addr][]netip.Addr{addr("10.64.5.1"): addrs("127.0.0.2")}}
	other := newOther(t, port, "127.0.0.2", ring)
	other.opts.Names.Publish(endpoint("db", "10.64.4.7", "Db"))
	directory := &static{
		hosts: map[string][]netip.Addr{
			"r2h1": addrs("127.0.0.9", "127.0.0.2"), // the first one is dead
			"r3h1": addrs("127.0.0.2"),              // it is not
			"r4h1": addrs("127.0.0.9"),
		},
		addrs: map[netip.Addr][]netip.Addr{addr("10.64.4.7"): addrs("127.0.0.2"), addr("10.64.4.8"): addrs("127.0.0.2"), addr("10.64.5.1"): addrs("127.0.0.2")},
	}
	s := newServer(t, func(o *Options) { o.Directory, o.Port = directory, port })
	s.SetBlocks(prefixes("10.64.0.64/26"), addrs("127.0.0.64")) // its source address
	const table = `
Db.R2h1.fabric.internal. A = NOERROR | Db.R2h1.fabric.internal. 0 A 10.64.4.7
db.r2h1.fabric.internal. AAAA = NOERROR | r2h1.fabric.internal. 0 SOA r2h1.fabric.internal.
db.r2h1.fabric.internal. ANY = NOERROR | db.r2h1.fabric.internal. 0 HINFO "RFC8482" ""
gone.r2h1.fabric.internal. A = NXDOMAIN | r2h1.fabric.internal. 0 SOA r2h1.fabric.internal.
r2h1.fabric.internal. SOA = NOERROR | r2h1.fabric.internal. 0 SOA r2h1.fabric.internal.
7.4.64.10.in-addr.arpa. PTR = NOERROR | 7.4.64.10.in-addr.arpa. 0 PTR Db.r2h1.fabric.internal.
8.4.64.10.in-addr.arpa. PTR = NXDOMAIN | 4.64.10.in-addr.arpa. 0 SOA r2h1.fabric.internal.
9.4.64.10.in-addr.arpa. PTR = NXDOMAIN | 64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
1.5.64.10.in-addr.arpa. PTR = SERVFAIL
web.r3h1.fabric.internal. A = SERVFAIL
web.r4h1.fabric.internal. A = SERVFAIL
web.r5h1.fabric.internal. A = NXDOMAIN | fabric.internal. 0 SOA r1h1.fabric.internal.
`
	for line := range strings.Lines(strings.TrimSpace(table)) {
		asked, want, _ := strings.Cut(strings.TrimSpace(line), " = ")
		name, kind, _ := strings.Cut(asked, " ")
		if got := told(s.ask(t, question(name, kind), aContainer)); got != want {
			t.Errorf("%s\n got %s\nwant %s", asked, got, want)
		}
	}
	if n := other.Stats().Answers[Outcome{Other, "SERVFAIL"}]; n != 0 {
		t.Errorf("what was relayed was relayed %d times more", n)
	}
	m := question("web.r3h1.fabric.internal.", "A")
	m.SetEdns0(1232, false)
	if got, want := told(s.ask(t, m, aContainer)), "SERVFAIL | opt 1232 No Reachable Authority: 127.0.0.2:"; !strings.HasPrefix(got, want) {
		t.Errorf("of a host that another name was wanted of: %s, want %s", got, want)
	}
	m = question("db.r2h1.fabric.internal.", "A")
	if got := told(s.ask(t, m, aStranger)); got != "REFUSED" {
		t.Errorf("a stranger was told %s", got)
	}
	m.RecursionDesired = false
	if got := told(s.ask(t, m, aContainer)); got != "REFUSED" {
		t.Errorf("without RD a query was relayed: %s", got)
	}
	directory.err = ErrUnsure
	if got := told(s.ask(t, question("db.r2h1.fabric.internal.", "A"), aContainer)); got != dns.RcodeToString[dns.RcodeServerFailure] {
		t.Errorf("by a directory that is unsure: %s", got)
	}
}
