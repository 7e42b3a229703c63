package hostile

import (
	"net/netip"
	"strings"
	"testing"
)

var testPeer = Peer{ASN: 65102, RouterID: netip.MustParseAddr("192.0.2.102"), HoldTime: 9}

// panics are the functions of GoBGP's parser that are known to panic. SECURITY.md lists them.
var panics = map[string]bool{
	"(*SRv6ServiceTLV).DecodeFromBytes":           true,
	"(*SRv6InformationSubTLV).DecodeFromBytes":    true,
	"(*PathAttributeMpReachNLRI).DecodeFromBytes": true,
	"GetRouteDistinguisher":                       true,
	"(*VPLSNLRI).DecodeFromBytes":                 true,
	"(*flowSpecPrefix6).DecodeFromBytes":          true,
	"(*FlowSpecComponent).DecodeFromBytes":        true,
	"(*SRPolicyNLRI).decodeFromBytes":             true,
}

// TestParserPanics looks for others, and shows that the known ones are there: where GoBGP is mended, the list is too long.
func TestParserPanics(t *testing.T) {
	found := map[string]bool{}
	for _, i := range append(append(Deadly(testPeer), Corpus(testPeer)...), Mutations(testPeer, 1, 200_000)...) {
		site := ParserPanic(i.Bytes)
		if site != "" && !panics[site] {
			t.Errorf("%s panics over %s: %x: add it to SECURITY.md", site, i.Name, i.Bytes)
		}
		found[site] = true
	}
	for _, i := range Deadly(testPeer) {
		behind := i.Name == "AS4_PATH before AS_PATH" || strings.HasPrefix(i.Name, "a message of unknown type")
		if survives := ParserPanic(i.Bytes) == ""; survives != behind {
			t.Errorf("the parser survives %s: %t", i.Name, survives)
		}
	}
	for site := range panics {
		if !found[site] {
			t.Errorf("%s did not panic", site)
		}
	}
}
