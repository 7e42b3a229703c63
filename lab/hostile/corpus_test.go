package hostile

import (
	"net/netip"
	"testing"
)

func TestNamesAreUnique(t *testing.T) {
	p := Peer{ASN: 65102, RouterID: netip.MustParseAddr("192.0.2.1"), HoldTime: 9}
	seen := map[string]bool{}
	corpus := append(Corpus(p), Mutations(p, 1, 100)...)
	for _, i := range corpus {
		if seen[i.Name] {
			t.Errorf("two items are %q", i.Name)
		}
		seen[i.Name] = true
	}
	t.Logf("%d items", len(corpus))
}
