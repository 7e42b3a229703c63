package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	api "github.com/osrg/gobgp/v3/api"
)

// TestMarks: what legs carry of the wanted administrator is told together, also when it alone changes.
func TestMarks(t *testing.T) {
	const ours, theirs = 4200000176, 64500
	v := newView(slog.New(slog.DiscardHandler), ours)
	v.configure(Config{})
	leg := func(from string, marks ...LargeCommunity) *api.Path {
		p := Announcement{Prefix: netip.MustParsePrefix("10.1.0.0/24"), NextHop: netip.MustParseAddr(from), LargeCommunities: marks}.path()
		p.NeighborIp = from
		return p
	}
	gone := leg("10.0.0.1")
	gone.IsWithdraw = true
	told := func() string {
		up, down := v.flush()
		var out []string
		for _, r := range up {
			out = append(out, fmt.Sprint(r.NextHops, r.Marks))
		}
		return strings.Join(out, " ") + strings.Repeat("-", len(down))
	}
	many := make([]LargeCommunity, 3*maxMarks)
	for i := range many {
		many[i] = LargeCommunity{ours, 1, uint32(i)}
	}
	for _, s := range []struct {
		what  string
		paths []*api.Path
		want  string
	}{
		{"one ToR strips what the other lets through", []*api.Path{leg("10.0.0.1", LargeCommunity{ours, 1, 7}), leg("10.0.0.2")}, "[10.0.0.1 10.0.0.2] [{4200000176 1 7}]"},
		{"all that any leg has", []*api.Path{leg("10.0.0.1", LargeCommunity{ours, 2, 9}), leg("10.0.0.2", LargeCommunity{ours, 1, 7}, LargeCommunity{ours, 2, 9})}, "[10.0.0.1 10.0.0.2] [{4200000176 1 7} {4200000176 2 9}]"},
		{"another order is no news", []*api.Path{leg("10.0.0.2", LargeCommunity{ours, 2, 9}, LargeCommunity{ours, 1, 7}), leg("10.0.0.1")}, ""},
		{"they go and the route stays", []*api.Path{leg("10.0.0.1"), leg("10.0.0.2", LargeCommunity{theirs, 1, 7})}, "[10.0.0.1 10.0.0.2] []"},
		{"they come with the same next hops", []*api.Path{leg("10.0.0.1", LargeCommunity{ours, 1, 8}), leg("10.0.0.2")}, "[10.0.0.1 10.0.0.2] [{4200000176 1 8}]"},
		{"the route goes", []*api.Path{gone}, "-"},
		{"and comes back without", []*api.Path{leg("10.0.0.1")}, "[10.0.0.1] []"},
	} {
		v.apply(s.paths)
		if got := told(); got != s.want {
			t.Errorf("%s: %q, want %q", s.what, got, s.want)
		}
	}
	v.apply([]*api.Path{leg("10.0.0.1", many...)})
	if up, _ := v.flush(); len(up) != 1 || len(up[0].Marks) != maxMarks {
		t.Errorf("of %d communities %v are told, want %d", len(many), up, maxMarks)
	}
	v.apply([]*api.Path{gone})
	if v.flush(); len(v.marks.current)+len(v.marks.delivered) > 0 {
		t.Errorf("kept of what is gone: %v, %v", v.marks.current, v.marks.delivered)
	}

	deaf := newView(slog.New(slog.DiscardHandler), 0)
	deaf.configure(Config{})
	deaf.apply([]*api.Path{leg("10.0.0.1", LargeCommunity{0, 1, 7})})
	if up, _ := deaf.flush(); len(up) != 1 || up[0].Marks != nil {
		t.Errorf("without an administrator %v is told, want no communities", up)
	}
}
