package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/agent"
)

var discard = slog.New(slog.DiscardHandler)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, t := range texts {
		list = append(list, addr(t))
	}
	return list
}

// endpoint is one of container id; names are its name and its aliases.
func endpoint(id, addresses string, names ...string) agent.Endpoint {
	ep := agent.Endpoint{Key: agent.Key{ContainerID: id, Interface: "eth0"}, Addresses: addrs(strings.Fields(addresses)...)}
	if len(names) > 0 {
		ep.Name, ep.Aliases = names[0], names[1:]
	}
	return ep
}

// settings are those of host r1h1.
func settings() Settings {
	return Settings{
		Enabled: true, Host: "r1h1", Zone: "fabric.internal", Fabric: prefixes("10.64.0.0/12", "fd00:64::/48"), Timeout: 2 * time.Second, Cache: 100,
	}
}

// newServer makes r1h1's server, which is not run.
func newServer(t testing.TB, change func(*Options)) *Server {
	t.Helper()
	o := Options{Settings: settings(), Names: NewZone(), Log: discard}
	if change != nil {
		change(&o)
	}
	s := NewServer(o)
	s.SetBlocks(prefixes("10.64.0.64/26", "10.64.8.0/23", "fd00:64:0:1::/64"), addrs("10.64.0.64", "fd00:64:0:1::"))
	return s
}

// send has s answer a datagram from a source, and returns what it replies; nil if it does not.
func (s *Server) send(t testing.TB, raw []byte, from string) []byte {
	t.Helper()
	var tasks sync.WaitGroup
	var reply []byte
	s.datagram(t.Context(), raw, netip.AddrPortFrom(addr(from), 4711), addr("10.64.0.64"), make([]byte, udpSize), &tasks, func(m []byte) { reply = slices.Clone(m) })
	tasks.Wait()
	return reply
}

const (
	aContainer = "10.64.0.70"
	aStranger  = "192.0.2.1"
)

func question(name, kind string) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, dns.StringToType[kind])
	return m
}

func (s *Server) ask(t testing.TB, m *dns.Msg, from string) *dns.Msg {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := s.send(t, raw, from)
	if reply == nil {
		t.Fatalf("%v: no reply", m.Question)
	}
	var r dns.Msg
	if err := r.Unpack(reply); err != nil {
		t.Fatalf("%v: %v", m.Question, err)
	}
	return &r
}

// told is a reply in a line: the rcode, flags, and the records without what is the same in all.
func told(r *dns.Msg) string {
	parts := []string{rcodeText(indexOf(rcodes, r.Rcode))}
	for _, f := range []struct {
		set  bool
		name string
	}{{r.Authoritative, "aa"}, {r.Truncated, "tc"}} {
		if f.set {
			parts = append(parts, f.name)
		}
	}
	for _, rr := range slices.Concat(r.Answer, r.Ns) {
		h := rr.Header()
		text := strings.TrimPrefix(rr.String(), h.String())
		if soa, ok := rr.(*dns.SOA); ok {
			text = soa.Ns
		}
		parts = append(parts, fmt.Sprintf("| %s %d %s %s", h.Name, h.Ttl, dns.TypeToString[h.Rrtype], text))
	}
	for _, rr := range r.Extra {
		if opt, ok := rr.(*dns.OPT); ok {
			parts = append(parts, fmt.Sprintf("| opt %d", opt.UDPSize()))
			for _, o := range opt.Option {
				if e, ok := o.(*dns.EDNS0_EDE); ok {
					parts = append(parts, fmt.Sprintf("%s: %s", dns.ExtendedErrorCodeToString[e.InfoCode], e.ExtraText))
				}
			}
		}
	}
	return strings.Join(parts, " ")
}

// run serves at addresses of the loopback until the test ends.
func (s *Server) run(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// freePort is one that nobody has on the loopback.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}
