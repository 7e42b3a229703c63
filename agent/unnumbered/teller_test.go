package unnumbered

import (
	"log/slog"
	"net/netip"
	"testing"
)

// TestAnotherRouterHasNoSession: a router that takes another's place is advertised to as one without a session, which nobody
// tells of as lost.
func TestAnotherRouterHasNoSession(t *testing.T) {
	p := newPort("eth0", nil, nil, slog.New(slog.DiscardHandler))
	w := &Watch{opts: Options{Log: p.log}, ports: map[string]*port{"eth0": p}, router: map[string]Router{}}
	tell := w.teller(t.Context(), "eth0")
	tell(address("a"), "")
	w.Session("eth0", true)
	if tell(address("a"), "several routers"); !p.established() {
		t.Error("the session is forgotten with the same router")
	}
	if tell(address("b"), ""); p.established() {
		t.Error("the session is taken for one with another router")
	}
	if tell(netip.Addr{}, "gone"); w.Router("eth0").Problem != "gone" {
		t.Error("not told")
	}
}
