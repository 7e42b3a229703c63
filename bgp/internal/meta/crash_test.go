package meta

import (
	"net/netip"
	"testing"
)

const report = `panic: runtime error: index out of range [3] with length 3

goroutine 57 [running labels:{"bgp-peer": "10.0.2.0"}]:
github.com/osrg/gobgp/v3/internal/pkg/table.UpdatePathAttrs4ByteAs(0xc000)
	table/message.go:208 +0x1
github.com/osrg/gobgp/v3/pkg/server.(*fsmHandler).recvMessageWithError(0xc0)
	fsm.go:1 +0x1
created by github.com/osrg/gobgp/v3/pkg/server.(*fsmHandler).established in goroutine 56
	fsm.go:2 +0x1
`

func TestParseCrash(t *testing.T) {
	peer := netip.MustParseAddr("10.0.2.0")
	for _, c := range []struct {
		name, report string
		want         Crash
	}{
		{"a peer's goroutine", report, Crash{Reason: "panic: runtime error: index out of range [3] with length 3", Peer: peer}},
		{"another goroutine's label", `panic: x

goroutine 9 [running]:
github.com/osrg/gobgp/v3/pkg/server.(*BgpServer).Serve(0xc0)

goroutine 57 [running labels:{"bgp-peer": "10.0.2.0"}]:
github.com/osrg/gobgp/v3/pkg/server.(*fsmHandler).loop(0xc0)
`, Crash{Reason: "panic: x"}},
		{"the event loop, with the label of whom it served last", `fatal error: all is lost

goroutine 1 [running labels:{"bgp-peer": "10.0.2.0"}]:
github.com/osrg/gobgp/v3/pkg/server.(*BgpServer).Serve(0xc0)
`, Crash{Reason: "fatal error: all is lost"}},
		{"what a panic says cannot be mistaken for a goroutine", "panic: \n\tgoroutine 1 [running labels:{\"bgp-peer\": \"10.0.1.0\"}]:\n\tgithub.com/osrg/gobgp/v3/pkg/server.(*fsmHandler).loop\n\n" + report[len("panic: "):],
			Crash{Reason: "panic: ", Peer: peer}},
		{"link-local", `panic: x

goroutine 57 gp=0xc000 m=5 mp=0xc0 [running, locked to thread labels:{"a": "b", "bgp-peer": "fe80::1%up1"}]:
github.com/osrg/gobgp/v3/pkg/server.(*fsmHandler).recvMessage(0xc0)
`, Crash{Reason: "panic: x", Peer: netip.MustParseAddr("fe80::1%up1")}},
		{"empty", "", Crash{}},
	} {
		if got := ParseCrash(c.report); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
