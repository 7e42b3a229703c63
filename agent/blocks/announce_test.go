package blocks

import (
	"context"
	"log/slog"
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
