package history_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
)

// TestAskedAtOnce asks of what was recorded a moment ago, which nobody has written yet.
func TestAskedAtOnce(t *testing.T) {
	l := open(t, t.TempDir()) // writes by itself once an hour
	defer l.Close()
	addr := netip.MustParseAddr("10.64.0.7")
	now := time.Now()
	l.Record(history.Event{Time: now, Kind: history.Attach, Container: "web1", Interface: "eth0", Addresses: []netip.Addr{addr}})
	found, err := l.At(t.Context(), now.Add(time.Millisecond), history.Filter{Address: addr})
	if err != nil || len(found) != 1 || found[0].Container != "web1" {
		t.Errorf("who has %s: %+v, %v", addr, found, err)
	}
	l.Record(history.Event{Time: now.Add(time.Second), Kind: history.Detach, Container: "web1", Interface: "eth0", Addresses: []netip.Addr{addr}})
	last, err := l.Last(t.Context(), 1, history.Filter{})
	if err != nil || len(last) != 1 || last[0].Kind != history.Detach {
		t.Errorf("the last event: %+v, %v", last, err)
	}
}
