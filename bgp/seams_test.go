package bgp

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/hostfabric/hostfabric/bgp/internal/blame"
	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// TestPeersToBeFoundAreWaitedFor: the routes are not complete while a peer is still looked for on its link, or an agent that
// starts anew would take away all that it had learned over such links.
func TestPeersToBeFoundAreWaitedFor(t *testing.T) {
	s := New(Options{})
	found := Peer{Address: netip.MustParseAddr("10.0.1.0")}
	sought := Peer{Address: netip.MustParseAddr("fe80::%eth0"), Pending: "looking for a router on eth0"}
	for _, c := range []Config{{Peers: []Peer{sought}}, {Peers: []Peer{found, sought}}} {
		var eor eorTracker
		eor.setPeers(s.expected(c))
		eor.state(found.Address, true)
		eor.expect(found.Address, []Family{IPv4})
		eor.marker(found.Address, IPv4)
		if eor.complete() {
			t.Errorf("complete without the router on eth0, with %d peers", len(c.Peers))
		}
	}
	var eor eorTracker
	eor.setPeers(s.expected(Config{Peers: []Peer{found, sought}, Shutdown: "maintenance"}))
	if !eor.complete() {
		t.Error("waiting for peers that are shut down")
	}
}

// TestPeerToBeFoundIsNobodyToRelyOn: the only router that the host has is not held down longer because another is looked for.
func TestPeerToBeFoundIsNobodyToRelyOn(t *testing.T) {
	s := New(Options{})
	only := netip.MustParseAddr("fe80::1%eth0")
	c := Config{Peers: []Peer{{Address: only}, {Address: netip.MustParseAddr("fe80::%eth1"), Pending: "no router heard on eth1"}}}
	s.want.config = &c
	now := time.Now()
	for range 5 {
		s.blame.Named(now, only)
	}
	list := []PeerStatus{{Address: only}}
	s.markHeld(list)
	if want := now.Add(blame.LastHold).Format(time.TimeOnly); !strings.Contains(list[0].LastDown, "until "+want) {
		t.Errorf("%s, want until %s", list[0].LastDown, want)
	}
}

// TestHeldPeerIsStillToCome: a warm restart is not over while a peer is held down that may have our routes.
func TestHeldPeerIsStillToCome(t *testing.T) {
	s := New(Options{})
	a, b := netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("10.0.2.0")
	c := Config{Peers: []Peer{{Address: a}, {Address: netip.MustParseAddr("fe80::1%eth1")}, {Address: b}}}
	s.blame.Named(time.Now(), a)
	ss := &session{Speaker: s, release: stopped()}
	defer ss.release.Stop()
	found, waiting := ss.admissible(c).split()
	if len(found) != 1 || found[0].Address != b || len(waiting) != 2 {
		t.Errorf("found %+v, waiting %+v", found, waiting)
	}
}

// TestCrashWithoutPeersBlamesNobody: a speaker that had no peer, as in a drain, did not die of one. Who it had may be unknown.
func TestCrashWithoutPeersBlamesNobody(t *testing.T) {
	only := netip.MustParseAddr("10.0.1.0")
	for _, tt := range []struct {
		given  []netip.Addr
		blamed int
	}{{[]netip.Addr{}, 0}, {nil, 1}, {[]netip.Addr{only}, 1}} {
		s := New(Options{})
		s.want.config = &Config{Peers: []Peer{{Address: only}}}
		s.blameFor(meta.Crash{}, tt.given)
		if held := s.blame.Held(time.Now(), []netip.Addr{only}); len(held) != tt.blamed || s.Status().Crashes != 1 {
			t.Errorf("with %#v at the speaker: held %v, %d crashes", tt.given, held, s.Status().Crashes)
		}
	}
}

// busy answers no listing in time.
type busy struct{ api.GobgpApiClient }

func (busy) ListPeer(ctx context.Context, _ *api.ListPeerRequest, _ ...grpc.CallOption) (api.GobgpApi_ListPeerClient, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// TestBusySpeakerIsNotLost: with a speaker that is too busy to say whether a peer is disabled, the peer is enabled all the same.
func TestBusySpeakerIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reconciler{conn: conn{busy{}}}
		if err := r.awaitAdmin(t.Context(), netip.MustParseAddr("10.0.1.0"), api.PeerState_DOWN); err != nil {
			t.Error(err)
		}
	})
}

// TestLongerPathBeginsWithOurAS: the first AS number in a path must be the one that the peer knows us by (RFC 4271 section
// 6.3), and a path to our own AS must not have it at all.
func TestLongerPathBeginsWithOurAS(t *testing.T) {
	conf := Config{ASN: 65001, Policy: HostPolicy{}, Leave: LeaveLonger, Peers: []Peer{
		{Address: netip.MustParseAddr("10.0.1.0"), ASN: 1, LocalAS: 65100}, {Address: netip.MustParseAddr("10.0.2.0"), ASN: 2, LocalAS: 65100},
	}}
	if got := text(buildPolicies(conf, announcements("10.1.0.0/26")), exportPolicy); strings.Contains(got, "65001") {
		t.Errorf("the path begins with an AS number that the peer does not know:\n%s", got)
	}
}
