package dns

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// BenchmarkPublish is what DNS adds to an attach and a detach together.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		what   string
		others int
		name   func(i int) string
	}{
		{"own name", 5000, func(i int) string { return fmt.Sprintf("web-%d", i) }},
		{"shared by 1000", 1000, func(int) string { return "web" }},
	} {
		b.Run(c.what, func(b *testing.B) {
			z := NewZone()
			base := addr("10.64.0.0").As4()
			at := func(i int) string {
				a := base
				a[2], a[3] = byte(i>>8), byte(i)
				return netip.AddrFrom4(a).String()
			}
			for i := range c.others {
				z.Publish(endpoint(fmt.Sprintf("c%d", i), at(i), c.name(i)))
			}
			ep := endpoint(longID, "10.64.255.1 fd00:64::1", c.name(c.others))
			b.ReportAllocs()
			for b.Loop() {
				z.Publish(ep)
				z.Retract(ep.Key)
			}
		})
	}
}

// BenchmarkAnswer is a query from its bytes to those of the reply, without the sockets.
func BenchmarkAnswer(b *testing.B) {
	for _, c := range []struct{ what, name, kind string }{
		{"A", "web.r1h1.fabric.internal.", "A"},
		{"PTR", "65.0.64.10.in-addr.arpa.", "PTR"},
		{"NXDOMAIN", "gone.r1h1.fabric.internal.", "A"},
	} {
		b.Run(c.what, func(b *testing.B) {
			s := newServer(b, func(o *Options) { o.Rate = 1_000_000 })
			s.opts.Names.Publish(endpoint("web", "10.64.0.65"))
			m := new(dns.Msg).SetQuestion(c.name, dns.StringToType[c.kind])
			m.SetEdns0(1232, false)
			raw, err := m.Pack()
			if err != nil {
				b.Fatal(err)
			}
			from, at, out := netip.MustParseAddrPort("192.0.2.1:4711"), addr("10.64.0.64"), make([]byte, udpSize)
			var tasks sync.WaitGroup
			ctx := context.Background()
			sent := 0
			b.ReportAllocs()
			for b.Loop() {
				s.datagram(ctx, raw, from, at, out, &tasks, func(reply []byte) { sent += len(reply) })
			}
			if sent == 0 {
				b.Fatal("nothing was answered")
			}
		})
	}
}
