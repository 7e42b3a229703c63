package blocks

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/hostfabric/hostfabric/bgp"
)

// listener is a speaker that remembers what it was last told.
type listener struct{ set []bgp.Announcement }

func (h *listener) Announce(_ context.Context, set []bgp.Announcement) error {
	h.set = set
	return nil
}

func (h *listener) Status() bgp.Status { return bgp.Status{} }

// Every announcement carries the configured communities, the quiet ones NO_ADVERTISE as well.
func TestAnnouncementsAreTagged(t *testing.T) {
	tags := make([]uint32, 1, 8) // with room, which announcements must not share
	tags[0] = 65001<<16 | 100
	large := []bgp.LargeCommunity{{Global: 65001, Local1: 1, Local2: 2}}
	speaker := &listener{}
	k := &Keeper{opts: Options{Settings: Settings{Communities: tags, LargeCommunities: large}}, log: slog.New(slog.DiscardHandler), speaker: speaker}
	set := prefixes("10.64.0.0/26", "10.64.0.64/26", "fd00:64::/64")
	if why := k.announce(t.Context(), set, set[1:2], cause{}); why != nil {
		t.Fatal(why)
	}
	for i, a := range speaker.set {
		want := slices.Clone(tags)
		if i == 1 {
			want = append(want, bgp.NoAdvertise)
		}
		if a.Prefix != set[i] || !slices.Equal(a.Communities, want) || !slices.Equal(a.LargeCommunities, large) {
			t.Errorf("announced %+v, want %v with %v and %v", a, set[i], want, large)
		}
	}
}

// What is announced anew is what carries something else: a mark follows the prefix and the host's address, at the latest when who
// follows knows of that.
func TestMarksFollow(t *testing.T) {
	speaker := &listener{}
	asked := &listener{}
	k := &Keeper{log: slog.New(slog.DiscardHandler), speaker: speaker, opts: Options{
		Mark: func(p netip.Prefix, host []netip.Addr) []bgp.LargeCommunity {
			return []bgp.LargeCommunity{{Global: 1, Local1: uint32(p.Bits()), Local2: uint32(len(host))}}
		},
	}}
	set := prefixes("10.64.0.0/26", "10.64.1.0/25")
	want := func(text string) {
		t.Helper()
		if why := k.announce(t.Context(), set, nil, cause{}); why != nil {
			t.Fatal(why)
		}
		var got []bgp.LargeCommunity
		for _, a := range speaker.set {
			got = append(got, a.LargeCommunities...)
		}
		if fmt.Sprint(got) != text {
			t.Errorf("announced with %v, want %s", got, text)
		}
	}
	want("[{1 26 0} {1 25 0}]")
	k.host = []netip.Addr{set[0].Addr()} // not told yet
	want("[{1 26 0} {1 25 0}]")
	k.followed.host = k.host
	want("[{1 26 1} {1 25 1}]")
	k.speaker = asked
	if why := k.announce(t.Context(), set, nil, cause{}); why != nil || asked.set != nil {
		t.Errorf("the same was announced again: %v, %v", asked.set, why)
	}
}
