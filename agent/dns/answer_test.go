package dns

import (
	"strings"
	"testing"
)

const longID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestAnswers has a line for each question: name, type, and what is told.
func TestAnswers(t *testing.T) {
	s := newServer(t, nil)
	z := s.opts.Names
	z.Publish(endpoint("web", "10.64.0.65 fd00:64:0:1::1", "Front", "www.shop", "_sip._udp"))
	z.Publish(endpoint(longID, "10.64.0.66"))
	z.Publish(endpoint("job.7", "10.64.9.1"))
	z.Publish(endpoint("bad-", "fd00:64:0:1::2"))
	z.Publish(endpoint("stray", "10.65.0.1"))
	const table = `
front.r1h1.fabric.internal. A = NOERROR aa | front.r1h1.fabric.internal. 0 A 10.64.0.65
FRONT.R1H1.fabric.INTERNAL. A = NOERROR aa | FRONT.R1H1.fabric.INTERNAL. 0 A 10.64.0.65
front.r1h1.fabric.internal. AAAA = NOERROR aa | front.r1h1.fabric.internal. 0 AAAA fd00:64:0:1::1
front.r1h1.fabric.internal. MX = NOERROR aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
front.r1h1.fabric.internal. ANY = NOERROR aa | front.r1h1.fabric.internal. 0 HINFO "RFC8482" ""
web.r1h1.fabric.internal. A = NOERROR aa | web.r1h1.fabric.internal. 0 A 10.64.0.65
www.shop.r1h1.fabric.internal. A = NOERROR aa | www.shop.r1h1.fabric.internal. 0 A 10.64.0.65
shop.r1h1.fabric.internal. A = NOERROR aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
_udp.r1h1.fabric.internal. AAAA = NOERROR aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
_sip._udp.r1h1.fabric.internal. AAAA = NOERROR aa | _sip._udp.r1h1.fabric.internal. 0 AAAA fd00:64:0:1::1
x.front.r1h1.fabric.internal. A = NXDOMAIN aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
gone.r1h1.fabric.internal. A = NXDOMAIN aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
gone.r1h1.fabric.internal. ANY = NXDOMAIN aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
www\.shop.r1h1.fabric.internal. A = NXDOMAIN aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
0123456789ab.r1h1.fabric.internal. A = NOERROR aa | 0123456789ab.r1h1.fabric.internal. 0 A 10.64.0.66
job.7.r1h1.fabric.internal. A = NOERROR aa | job.7.r1h1.fabric.internal. 0 A 10.64.9.1
r1h1.fabric.internal. A = NOERROR aa | r1h1.fabric.internal. 0 A 10.64.0.64
r1h1.fabric.internal. AAAA = NOERROR aa | r1h1.fabric.internal. 0 AAAA fd00:64:0:1::
r1h1.fabric.internal. SOA = NOERROR aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
r1h1.fabric.internal. NS = NOERROR aa | r1h1.fabric.internal. 0 NS r1h1.fabric.internal.
r1h1.fabric.internal. TXT = NOERROR aa | r1h1.fabric.internal. 0 SOA r1h1.fabric.internal.
fabric.internal. SOA = NOERROR aa | fabric.internal. 0 SOA r1h1.fabric.internal.
fabric.internal. NS = NOERROR aa | fabric.internal. 0 NS r1h1.fabric.internal.
fabric.internal. A = NOERROR aa | fabric.internal. 0 SOA r1h1.fabric.internal.
65.0.64.10.in-addr.arpa. PTR = NOERROR aa | 65.0.64.10.in-addr.arpa. 0 PTR Front.r1h1.fabric.internal.
66.0.64.10.in-addr.arpa. PTR = NOERROR aa | 66.0.64.10.in-addr.arpa. 0 PTR 0123456789ab.r1h1.fabric.internal.
64.0.64.10.in-addr.arpa. PTR = NOERROR aa | 64.0.64.10.in-addr.arpa. 0 PTR r1h1.fabric.internal.
1.9.64.10.IN-ADDR.arpa. PTR = NOERROR aa | 1.9.64.10.IN-ADDR.arpa. 0 PTR job.7.r1h1.fabric.internal.
1.0.65.10.in-addr.arpa. PTR = NOERROR aa | 1.0.65.10.in-addr.arpa. 0 PTR stray.r1h1.fabric.internal.
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. PTR = NOERROR aa | 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. 0 PTR Front.r1h1.fabric.internal.
2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. PTR = NOERROR aa | 2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. 0 PTR ip-fd00-0064-0000-0001-0000-0000-0000-0002.r1h1.fabric.internal.
65.0.64.10.in-addr.arpa. A = NOERROR aa | 0.64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
67.0.64.10.in-addr.arpa. PTR = NXDOMAIN aa | 0.64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
x.65.0.64.10.in-addr.arpa. PTR = NXDOMAIN aa | 0.64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
0.64.10.in-addr.arpa. SOA = NOERROR aa | 0.64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
9.64.10.in-addr.arpa. NS = NOERROR aa | 9.64.10.in-addr.arpa. 0 NS r1h1.fabric.internal.
9.64.10.in-addr.arpa. PTR = NOERROR aa | 9.64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
065.0.64.10.in-addr.arpa. PTR = NXDOMAIN aa | 0.64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. SOA = NOERROR aa | 1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. 0 SOA r1h1.fabric.internal.
0.0.1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. PTR = NOERROR aa | 1.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa. 0 SOA r1h1.fabric.internal.
70.64.10.in-addr.arpa. PTR = NOERROR | 64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
x.70.64.10.in-addr.arpa. PTR = NXDOMAIN | 64.10.in-addr.arpa. 0 SOA r1h1.fabric.internal.
localhost. A = NOERROR | localhost. 0 A 127.0.0.1
x.localhost. AAAA = NOERROR | x.localhost. 0 AAAA ::1
x.invalid. A = NXDOMAIN
example.com. A = REFUSED
64.10.in-addr.arpa.example.com. A = REFUSED
10.in-addr.arpa. SOA = REFUSED
r1h1\.fabric.internal. A = REFUSED
`
	for line := range strings.Lines(strings.TrimSpace(table)) {
		asked, want, _ := strings.Cut(strings.TrimSpace(line), " = ")
		name, kind, _ := strings.Cut(asked, " ")
		m := question(name, kind)
		if got := told(s.ask(t, m, aContainer)); got != want {
			t.Errorf("%s\n got %s\nwant %s", asked, got, want)
		}
	}
}
