package bfd

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestNormalize(t *testing.T) {
	ok := Session{Peer: netip.MustParseAddr("10.0.0.1"), MinTx: time.Second, MinRx: time.Second, Multiplier: 3}
	with := func(change func(*Session)) Session {
		s := ok
		change(&s)
		return s
	}
	for want, set := range map[string][]Session{
		"not the address of a neighbour":         {with(func(s *Session) { s.Peer = netip.Addr{} })},
		"a link-local address needs":             {with(func(s *Session) { s.Peer = netip.MustParseAddr("fe80::1") })},
		"interface eth1 contradicts the zone":    {with(func(s *Session) { s.Peer, s.Interface = netip.MustParseAddr("fe80::1%eth0"), "eth1" })},
		"longer than the 15 octets":              {with(func(s *Session) { s.Interface = "0123456789abcdef" })},
		"local address ::1 is of the other":      {with(func(s *Session) { s.Local = netip.MustParseAddr("::1") })},
		"min_tx 1ms: not from 10ms to 1m0s":      {with(func(s *Session) { s.MinTx = time.Millisecond })},
		"min_rx 1h0m0s: not from 10ms to 1m0s":   {with(func(s *Session) { s.MinRx = time.Hour })},
		"multiplier 0":                           {with(func(s *Session) { s.Multiplier = 0 })},
		"peer 10.0.0.1 on interface \"\": given": {ok, with(func(s *Session) { s.MinTx = 2 * time.Second })},
		"257 sessions: at most 256":              make([]Session, MaxSessions+1),
	} {
		if _, err := normalizeAll(set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	got, err := normalizeAll([]Session{
		with(func(s *Session) { s.Peer = netip.MustParseAddr("fe80::1%eth0") }),
		with(func(s *Session) { s.Peer, s.Interface = netip.MustParseAddr("fe80::1"), "eth1" }),
		with(func(s *Session) { s.Peer = netip.MustParseAddr("::ffff:10.0.0.9") }),
	})
	if err != nil || got[0].Interface != "eth0" || got[1].Peer.Zone() != "eth1" || !got[2].Peer.Is4() {
		t.Errorf("%+v, %v", got, err)
	}
}
