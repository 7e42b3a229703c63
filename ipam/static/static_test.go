package static_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/static"
)

func TestBlocks(t *testing.T) {
	given := []ipam.Block{
		{Prefix: netip.MustParsePrefix("10.1.0.0/26"), Pool: "gold", Reserved: []ipam.Range{{First: netip.MustParseAddr("10.1.0.1"), Last: netip.MustParseAddr("10.1.0.2")}}},
		{Prefix: netip.MustParsePrefix("fd00::/64"), Source: "somewhere", Draining: true},
	}
	s := static.New(given)
	given[0].Prefix, given[0].Reserved[0] = netip.Prefix{}, ipam.Range{} // the caller's own
	const want = "[{10.1.0.0/26 gold static [10.1.0.1-10.1.0.2] false} {fd00::/64  static [] true}]"
	for range 2 {
		blocks, err := s.Blocks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(blocks); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		blocks[0].Prefix, blocks[0].Reserved[0] = netip.Prefix{}, ipam.Range{}
	}
	if s.Name() != "static" {
		t.Error(s.Name())
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hints, err := static.New(nil).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, open := <-hints; open {
		t.Error("a hint from a source that never changes")
	}
}
