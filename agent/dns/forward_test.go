package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// resolver is one that answers as it is told.
type resolver struct {
	at    netip.AddrPort
	asked atomic.Int32
}

// newResolver answers at an address of the loopback, over UDP and TCP.
func newResolver(t *testing.T, at string, port uint16, answer func(m *dns.Msg, tcp bool) *dns.Msg) *resolver {
	t.Helper()
	r := &resolver{at: netip.AddrPortFrom(addr(at), port)}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r.asked.Add(1)
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		if reply := answer(m, tcp); reply != nil {
			_ = w.WriteMsg(reply)
		}
	})
	udp, err := net.ListenPacket("udp4", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return r
}

func rr(t testing.TB, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newForwarding makes a server that forwards to these.
func newForwarding(t *testing.T, upstreams ...netip.AddrPort) *Server {
	return newServer(t, func(o *Options) { o.Forward, o.Upstreams, o.Timeout = true, upstreams, time.Second })
}

func TestForward(t *testing.T) {
	up := newResolver(t, "127.0.0.1", freePort(t), func(m *dns.Msg, tcp bool) *dns.Msg {
		reply := new(dns.Msg).SetReply(m)
		switch name, _, _ := strings.Cut(m.Question[0].Name, "."); {
		case name == "www":
			reply.Answer = []dns.RR{rr(t, "www.example.com. 300 CNAME web.example.com."), rr(t, "web.example.com. 60 A 192.0.2.80")}
		case name == "none":
			reply.Rcode = dns.RcodeNameError
			reply.Ns = []dns.RR{rr(t, "example.com. 300 SOA ns.example.com. admin.example.com. 1 2 3 4 120")}
		case name == "large" && !tcp:
			reply.Truncated = true
		case name == "large":
			for i := range 100 {
				reply.Answer = append(reply.Answer, rr(t, fmt.Sprintf("large.example.com. 300 A 192.0.2.%d", i)))
			}
		case name == "old" && m.IsEdns0() != nil:
			reply.Rcode = dns.RcodeFormatError
		case name == "old":
			reply.Answer = []dns.RR{rr(t, "old.example.com. 300 A 192.0.2.81")}
		default:
			reply.Rcode = dns.RcodeRefused
		}
		return reply
	})
	s := newForwarding(t, up.at)
	for _, q := range []struct{ name, want string }{
		{"WWW.example.com.", "NOERROR | www.example.com. 300 CNAME web.example.com. | web.example.com. 60 A 192.0.2.80"},
		{"none.example.com.", "NXDOMAIN | example.com. 300 SOA ns.example.com."},
		{"old.example.com.", "NOERROR | old.example.com. 300 A 192.0.2.81"},
		{"other.example.com.", "REFUSED"},
	} {
		if got := told(s.ask(t, question(q.name, "A"), aContainer)); got != q.want {
			t.Errorf("%s\n got %s\nwant %s", q.name, got, q.want)
		}
	}
	large := question("large.example.com.", "A")
	raw, err := large.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if r := s.ask(t, large, aContainer); !r.Truncated || len(s.send(t, raw, aContainer)) > plainSize {
		t.Errorf("a long answer is not truncated: %v", r)
	}

	// What the cache has, nobody is asked for.
	before := up.asked.Load()
	for range 3 {
		s.ask(t, question("www.EXAMPLE.com.", "A"), aContainer)
		s.ask(t, question("none.example.com.", "A"), aContainer)
	}
	if n := up.asked.Load() - before; n != 0 {
		t.Errorf("the resolver was asked %d times for what the cache has", n)
	}
	m := question("www.example.com.", "A")
	m.SetEdns0(udpSize, true)
	if s.ask(t, m, aContainer); up.asked.Load() == before {
		t.Error("the cache does not tell those who want signatures from others")
	}
	if st := s.Stats(); st.CacheHits != 7 || st.CacheEntries != 6 {
		t.Errorf("cache: %d hits, %d entries; want 7, 6", st.CacheHits, st.CacheEntries)
	}

	for _, q := range []struct {
		what string
		ask  func() *dns.Msg
		want string
	}{
		{"by a stranger", func() *dns.Msg { return s.ask(t, question("www.example.com.", "A"), aStranger) }, "REFUSED"},
		{"for all there is", func() *dns.Msg { return s.ask(t, question("www.example.com.", "ANY"), aContainer) }, `NOERROR | www.example.com. 3600 HINFO "RFC8482" ""`},
		{"without RD", func() *dns.Msg {
			m := question("www.example.com.", "A")
			m.RecursionDesired = false
			return s.ask(t, m, aContainer)
		}, "REFUSED"},
	} {
		if got := told(q.ask()); got != q.want {
			t.Errorf("asked %s: %s, want %s", q.what, got, q.want)
		}
	}
}

// TestForwardFailsOver: a resolver that does not answer costs the first query some time, and the next ones none.
func TestForwardFailsOver(t *testing.T) {
	port := freePort(t)
	mute := newResolver(t, "127.0.0.2", port, func(*dns.Msg, bool) *dns.Msg { return nil })
	broken := newResolver(t, "127.0.0.3", port, func(m *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(m, dns.RcodeServerFailure) })
	good := newResolver(t, "127.0.0.4", port, func(m *dns.Msg, _ bool) *dns.Msg {
		reply := new(dns.Msg).SetReply(m)
		reply.Answer = []dns.RR{rr(t, m.Question[0].Name+" 300 A 192.0.2.80")}
		return reply
	})
	s := newForwarding(t, mute.at, broken.at, good.at)
	for i := range 3 {
		name := fmt.Sprintf("n%d.example.com.", i)
		if got, want := told(s.ask(t, question(name, "A"), aContainer)), "NOERROR | "+name+" 300 A 192.0.2.80"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if mute.asked.Load() != 1 {
		t.Errorf("a resolver that does not answer was asked %d times, want 1", mute.asked.Load())
	}
	s = newForwarding(t, mute.at)
	s.Set(Settings{Enabled: true, Host: "r1h1", Zone: "fabric.internal", Forward: true, Upstreams: []netip.AddrPort{mute.at}, Timeout: 50 * time.Millisecond})
	m := question("n.example.com.", "A")
	m.SetEdns0(udpSize, false)
	if got, want := told(s.ask(t, m, aContainer)), "SERVFAIL | opt 1232 No Reachable Authority: 127.0.0.2"; !strings.HasPrefix(got, want) {
		t.Errorf("without any answer: %s, want %s", got, want)
	}
}

// TestForwardCoalesces: what many ask for at a time is asked once.
func TestForwardCoalesces(t *testing.T) {
	release := make(chan struct{})
	up := newResolver(t, "127.0.0.1", freePort(t), func(m *dns.Msg, _ bool) *dns.Msg {
		<-release
		reply := new(dns.Msg).SetReply(m)
		reply.Answer = []dns.RR{rr(t, "www.example.com. 0 A 192.0.2.80")} // which no cache keeps
		return reply
	})
	s := newForwarding(t, up.at)
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if got, want := told(s.ask(t, question("www.example.com.", "A"), aContainer)), "NOERROR | www.example.com. 0 A 192.0.2.80"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	nstest.Eventually(t, 5*time.Second, func() error {
		if n := s.Stats().Waiting; n < 20 {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	close(release)
	asking.Wait()
	if n := up.asked.Load(); n > 2 { // one of them may come when the answer has just gone
		t.Errorf("the resolver was asked %d times", n)
	}
}

// TestResolvConf: the file is read anew when it changes, and this server itself is no resolver.
func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("search example.com\nnameserver 10.64.0.64\nnameserver 192.0.2.53\nnameserver what\nnameserver fd00::53\n")
	s := newServer(t, func(o *Options) { o.Forward, o.ResolvConf = true, file })
	upstreams := func() string { return fmt.Sprint(s.Status().Upstreams) }
	if got, want := upstreams(), "[192.0.2.53:53 [fd00::53]:53]"; got != want {
		t.Errorf("resolvers %s, want %s", got, want)
	}
	write("nameserver 192.0.2.54\n")
	nstest.Eventually(t, 5*time.Second, func() error {
		if got, want := upstreams(), "[192.0.2.54:53]"; got != want {
			return fmt.Errorf("resolvers %s, want %s", got, want)
		}
		return nil
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got, want := upstreams(), "[192.0.2.54:53]"; got != want {
		t.Errorf("resolvers while there is no file: %s, want %s", got, want)
	}
}

// TestExchangeTakesItsOwnReply: what comes from elsewhere, or answers something else, is not taken for the reply.
func TestExchangeTakesItsOwnReply(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, maxQuery)
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dns.Msg
		if err := m.Unpack(buf[:n]); err != nil {
			t.Error(err)
			return
		}
		say := func(by net.PacketConn, text string, change func(*dns.Msg)) {
			reply := new(dns.Msg).SetReply(&m)
			reply.Answer = []dns.RR{rr(t, "a.example.com. 300 TXT "+text)}
			change(reply)
			raw, err := reply.Pack()
			if err == nil {
				_, err = by.WriteTo(raw, from)
			}
			if err != nil {
				t.Error(err)
			}
		}
		say(other, "elsewhere", func(*dns.Msg) {})
		say(c, "id", func(r *dns.Msg) { r.Id++ })
		say(c, "query", func(r *dns.Msg) { r.Response = false })
		say(c, "name", func(r *dns.Msg) { r.Question[0].Name = "b.example.com." })
		say(c, "type", func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeA })
		say(c, "none", func(r *dns.Msg) { r.Question = nil })
		_, _ = c.WriteTo([]byte{0, 1, 0x80}, from)
		_, _ = c.WriteTo(append([]byte(nil), buf[:n+3]...), from)
		say(c, "right", func(*dns.Msg) {})
	}()
	reply, err := exchange(context.Background(), netip.Addr{}, c.LocalAddr().(*net.UDPAddr).AddrPort(), question("a.example.com.", "TXT"), 2*time.Second)
	if err != nil || len(reply.Answer) != 1 || !strings.Contains(reply.Answer[0].String(), `"right"`) {
		t.Errorf("%v, %v", reply, err)
	}
	<-served
}
