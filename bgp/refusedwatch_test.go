package bgp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// replies is a stream of what a listing answers.
type replies[R any] struct {
	grpc.ClientStream
	list []R
}

func (r *replies[R]) Recv() (R, error) {
	if len(r.list) == 0 {
		var none R
		return none, io.EOF
	}
	one := r.list[0]
	r.list = r.list[1:]
	return one, nil
}

func (r *replies[R]) Header() (metadata.MD, error) { return nil, nil }

// talker is a speaker with one established peer, 10.0.1.1, whose table is given.
type talker struct {
	api.GobgpApiClient
	prefixes []string // what the peer announces
	more     uint64   // prefixes besides, that only the counters know
	updates  uint64
	down     bool
	cost     time.Duration // of a search; a listing of all takes ten times as long
	began    time.Time
	looks    []string // when, and how
	localAS  uint32   // ours towards the peer; 0: as towards all
	each     func(second int)
}

func (c *talker) ListPeer(context.Context, *api.ListPeerRequest, ...grpc.CallOption) (api.GobgpApi_ListPeerClient, error) {
	c.each(int(time.Since(c.began) / time.Second))
	n := uint64(len(c.prefixes)) + c.more
	state := api.PeerState_ESTABLISHED
	if c.down {
		state = api.PeerState_ACTIVE
	}
	p := &api.Peer{
		Conf:     &api.PeerConf{NeighborAddress: "10.0.1.1"},
		State:    &api.PeerState{SessionState: state, Messages: &api.Messages{Received: &api.Message{Update: c.updates}}},
		AfiSafis: []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: IPv4.api()}, State: &api.AfiSafiState{Received: n, Accepted: n}}},
	}
	return &replies[*api.ListPeerResponse]{list: []*api.ListPeerResponse{{Peer: p}}}, nil
}

func (c *talker) ListPath(_ context.Context, r *api.ListPathRequest, _ ...grpc.CallOption) (api.GobgpApi_ListPathClient, error) {
	how, cost := "all", 10*c.cost
	if len(r.GetPrefixes()) > 0 {
		how, cost = "own", c.cost
	}
	c.looks = append(c.looks, fmt.Sprintf("%s@%s", how, time.Since(c.began).Round(100*time.Millisecond)))
	<-time.After(cost)
	path, err := gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{65101, 64999})}).Serialize()
	if err != nil {
		return nil, err
	}
	out := &replies[*api.ListPathResponse]{}
	for _, p := range c.prefixes {
		out.list = append(out.list, &api.ListPathResponse{Destination: &api.Destination{Prefix: p, Paths: []*api.Path{{PattrsBinary: [][]byte{path}}}}})
	}
	return out, nil
}

// talk runs a watch over the talker, whose tallies know of no path in use, for so long. Each is called whenever the counters are read.
func (c *talker) talk(t *testing.T, d time.Duration, each func(second int)) (*refusals, string) {
	t.Helper()
	var log bytes.Buffer
	config := &Config{ASN: 65001, Peers: []Peer{{Address: netip.MustParseAddr("10.0.1.1"), ASN: 65101, LocalAS: c.localAS, MaxPrefixes: 500_000}}, Policy: HostPolicy{OwnSpace: prefixList("10.64.1.0/26")}}
	w := &refusedWatch{
		conn: conn{c}, log: slog.New(slog.NewTextHandler(&log, nil)), tallies: newTallies(), refusals: newRefusals(), marks: map[tallyKey]*refusedMark{},
		desired: func() desired { return desired{config: config} }, synced: func() bool { return true },
	}
	c.began, c.each = time.Now(), each
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	w.run(ctx)
	return w.refusals, log.String()
}

func nothing(int) {}

func (c *talker) looked() string { return strings.Join(c.looks, " ") }

// A peer that has fallen silent is looked at once, and again when it says something.
func TestSilentPeerIsLookedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &talker{prefixes: []string{"10.64.1.0/26", "192.0.2.0/24"}, updates: 1, cost: time.Millisecond}
		found, log := c.talk(t, 30*time.Second, func(second int) {
			if second == 20 {
				c.updates++
			}
		})
		if got := c.looked(); got != "all@2s all@22s" && got != "all@2s all@21s" {
			t.Errorf("looked %s", got)
		}
		list := []PeerStatus{{Address: netip.MustParseAddr("10.0.1.1"), Families: []FamilyStatus{{Family: IPv4}}}}
		found.fill(list)
		if r := list[0].Families[0].Refused; r != (RefusedCount{OwnSpace: 1, NotListed: 1}) || len(list[0].Refused) != 2 || list[0].Refused[0].Origin != 64999 {
			t.Errorf("refused: %+v, %+v", r, list[0].Refused)
		}
		if n := strings.Count(log, "level=ERROR"); n != 1 {
			t.Errorf("%d alarms:\n%s", n, log)
		}
	})
}

// A large table of a peer that never stops talking is searched for our own space at intervals of ten times the cost, and
// counted rarely.
func TestTalkativePeerWithALargeTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &talker{prefixes: []string{"10.64.1.0/26"}, more: 100_000, cost: 500 * time.Millisecond}
		_, log := c.talk(t, 2*time.Minute, func(int) { c.updates++ })
		own, all := strings.Count(c.looked(), "own@"), strings.Count(c.looked(), "all@")
		if own < 8 || own > 20 || all < 1 || all > 2 {
			t.Errorf("searched %d times, listed %d times: %s", own, all, c.looked())
		}
		if first, _, _ := strings.Cut(c.looked(), " "); first != "own@4s" {
			t.Errorf("first %s", first)
		}
		if n := strings.Count(log, "level=ERROR"); n != 1 {
			t.Errorf("%d alarms:\n%s", n, log)
		}
	})
}

// What a peer announced is over with its session, and nobody looks at one that is about to lose it.
func TestLookingEndsWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &talker{prefixes: []string{"10.64.1.0/26"}, updates: 1}
		found, log := c.talk(t, 20*time.Second, func(second int) { c.down = second >= 10 })
		if len(found.known()) > 0 || !strings.Contains(log, "no longer announces") {
			t.Errorf("still known: %v\n%s", found.known(), log)
		}
		c = &talker{more: 600_000, updates: 1}
		c.talk(t, 20*time.Second, nothing)
		if c.looked() != "" {
			t.Errorf("looked %s at a peer above its limit", c.looked())
		}
	})
}

func TestAttributesOfAPath(t *testing.T) {
	var raw [][]byte
	for _, a := range []gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0),
		gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{
			gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{4200000001, 65002}), gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SET, []uint32{7}),
		}),
		gobgp.NewPathAttributeMpReachNLRI("2001:db8::1", []gobgp.AddrPrefixInterface{gobgp.NewIPv6AddrPrefix(48, "2001:db8:1::")}),
	} {
		b, err := a.Serialize()
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b)
	}
	if got := fmt.Sprint(asPath(raw), hopIn(raw)); got != "[4200000001 65002 7] 2001:db8::1" {
		t.Errorf("read %s", got)
	}
	hop, err := gobgp.NewPathAttributeNextHop("192.0.2.1").Serialize()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(asPath([][]byte{hop, nil, {1}}), hopIn([][]byte{nil, {1}, hop})); got != "[] 192.0.2.1" {
		t.Errorf("read %s", got)
	}
}

// TestOwnRoutesComeBackWithLocalAS: our own announcement that comes back over another router has the AS number that the
// routers know us by. It is nobody else's.
func TestOwnRoutesComeBackWithLocalAS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &talker{prefixes: []string{"10.64.1.0/26"}, localAS: 64999}
		if found, log := c.talk(t, 10*time.Second, nothing); len(found.known()) > 0 || strings.Contains(log, "level=ERROR") {
			t.Errorf("found %v, log %s", found.found, log)
		}
	})
}
