package static_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/hostfabric/hostfabric/ipam/static"
)

func TestBlocks(t *testing.T) {
	s := static.New(
		[]netip.Prefix{netip.MustParsePrefix("10.1.0.0/26"), netip.MustParsePrefix("fd00::/64")},
		[]netip.Addr{
			netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00::1"),
			netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("::ffff:10.1.0.2"), {},
		})
	const want = "[{10.1.0.0/26 static [10.1.0.1 10.1.0.2]} {fd00::/64 static [fd00::1]}]"
	for range 2 {
		blocks, err := s.Blocks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(blocks); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		blocks[0].Reserved[0] = netip.Addr{} // the caller's own
	}
	if s.Name() != "static" {
		t.Error(s.Name())
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hints, err := static.New(nil, nil).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, open := <-hints; open {
		t.Error("a hint from a source that never changes")
	}
}
