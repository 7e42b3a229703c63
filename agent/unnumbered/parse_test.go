package unnumbered

import (
	"net/netip"
	"testing"

	"github.com/mdlayher/ndp"
)

func marshal(t testing.TB, m ndp.Message) []byte {
	t.Helper()
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	ra := marshal(t, &ndp.RouterAdvertisement{})
	rs := marshal(t, &ndp.RouterSolicitation{})
	na := marshal(t, &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: address("a")})
	reply := []byte{129, 0, 0, 0, 0x12, 0x34, 0, 1}
	a, global, none := address("a"), netip.MustParseAddr("2001:db8::1"), netip.IPv6Unspecified()
	for name, tt := range map[string]struct {
		b    []byte
		from netip.Addr
		hops int
		kind kind
		ok   bool
	}{
		"advertisement":                  {ra, a, 255, routerAdvertisement, true},
		"advertisement from afar":        {ra, a, 254, 0, false},
		"advertisement of no link-local": {ra, global, 255, 0, false},
		"advertisement of nobody":        {ra, none, 255, 0, false},
		"cut short":                      {ra[:7], a, 255, 0, false},
		"solicitation":                   {rs, a, 255, routerSolicitation, true},
		"solicitation without address":   {rs, none, 255, routerSolicitation, true},
		"neighbor":                       {na, a, 255, neighborAdvertisement, true},
		"neighbor from afar":             {na, a, 64, 0, false},
		"answer":                         {reply, a, 64, echoReply, true},
		"answer to somebody else":        {append([]byte{129, 0, 0, 0, 0x12, 0x35}, 0, 1), a, 64, 0, false},
		"answer of no link-local":        {reply, global, 64, 0, false},
		"something else":                 {[]byte{1, 0, 0, 0, 0, 0, 0, 0}, a, 255, 0, false},
	} {
		p, ok := parse(tt.b, tt.from, tt.hops, 0x1234)
		if ok != tt.ok || ok && (p.kind != tt.kind || p.from != tt.from) {
			t.Errorf("%s: %+v, %t", name, p, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(marshal(f, &ndp.RouterAdvertisement{Options: []ndp.Option{ndp.NewMTU(1500)}}), 255)
	f.Add(marshal(f, &ndp.NeighborAdvertisement{TargetAddress: address("a")}), 255)
	f.Add([]byte{129, 0, 0, 0, 0x12, 0x34, 0, 1}, 64)
	f.Fuzz(func(t *testing.T, b []byte, hops int) {
		if p, ok := parse(b, address("a"), hops, 0x1234); ok && p.kind != echoReply && hops != hopLimit {
			t.Errorf("%x with hop limit %d taken for %+v", b, hops, p)
		}
	})
}
