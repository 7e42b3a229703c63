package bgp_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/packet/bmp"
	"github.com/osrg/gobgp/v3/pkg/packet/mrt"

	"github.com/hostfabric/hostfabric/bgp"
)

// station is a BMP receiver that notes what it is told.
type station struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	told   []string
	conns  []net.Conn
	closed int
}

func startStation(t *testing.T, n *node, address string) *station {
	t.Helper()
	s := &station{}
	if err := n.ns.Do(func() (err error) {
		s.listener, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() { s.read(conn) })
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *station) read(conn net.Conn) {
	scanner := bufio.NewScanner(conn)
	scanner.Split(bmp.SplitBMP)
	for scanner.Scan() {
		msg, err := bmp.ParseBMPMessage(scanner.Bytes())
		word := fmt.Sprint(err)
		if err == nil {
			switch body := msg.Body.(type) {
			case *bmp.BMPInitiation:
				word = "initiation"
			case *bmp.BMPPeerUpNotification:
				word = fmt.Sprintf("up %s AS%d", msg.PeerHeader.PeerAddress, msg.PeerHeader.PeerAS)
			case *bmp.BMPPeerDownNotification:
				word = "down " + msg.PeerHeader.PeerAddress.String()
			case *bmp.BMPRouteMonitoring:
				word = "route"
				for _, nlri := range body.BGPUpdate.Body.(*gobgp.BGPUpdate).NLRI {
					word += " " + nlri.String()
				}
			case *bmp.BMPTermination:
				word = "termination"
			default:
				word = fmt.Sprintf("%T", body)
			}
		}
		// GoBGP v3 at times leaves the NOTIFICATION out of a Peer Down that announces one (RFC 7854 section 4.9).
		if raw := scanner.Bytes(); err != nil && len(raw) > bmp.BMP_HEADER_SIZE+bmp.BMP_PEER_HEADER_SIZE && raw[5] == bmp.BMP_MSG_PEER_DOWN_NOTIFICATION {
			address := raw[bmp.BMP_HEADER_SIZE+10 : bmp.BMP_HEADER_SIZE+26]
			word = "down " + netip.AddrFrom4([4]byte(address[12:])).String()
		}
		s.mu.Lock()
		s.told = append(s.told, word)
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.closed++
	s.mu.Unlock()
}

func (s *station) want(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, 15*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range words {
			if !slices.Contains(s.told, w) {
				return fmt.Errorf("the station was told %q, not %q", s.told, w)
			}
		}
		return nil
	})
}

func TestStations(t *testing.T) {
	t.Parallel()
	host, _, conf, _ := pair(t, func(_, _ *bgp.Peer) {})
	since := host.established(t, "10.0.1.0").Since
	one, two := startStation(t, host, "127.0.0.1:11019"), startStation(t, host, "[::1]:5000")
	conf.Stations = []bgp.Station{
		{Address: netip.MustParseAddrPort("127.0.0.1:11019"), View: bgp.PrePolicy},
		{Address: netip.MustParseAddrPort("[::1]:5000"), View: bgp.PostPolicy},
	}
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*station{one, two} {
		s.want(t, "initiation", "up 10.0.1.0 AS65100", "route 0.0.0.0/0", "route 10.64.2.0/26")
	}
	// One goes, the other one is not disturbed.
	conf.Stations = conf.Stations[:1]
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	two.want(t, "termination")
	if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateEstablished || !p.Since.Equal(since) || p.Flaps > 0 {
		t.Errorf("stations that come and go have touched the session: %+v", p)
	}
	if err := host.Reset(t.Context(), addr("10.0.1.0"), "try"); err != nil {
		t.Fatal(err)
	}
	one.want(t, "down 10.0.1.0")
	one.mu.Lock()
	if one.closed != 0 {
		t.Error("the station that stays was disconnected")
	}
	one.mu.Unlock()
	two.mu.Lock()
	if slices.Contains(two.told, "down 10.0.1.0") {
		t.Error("a station that was removed is still told")
	}
	two.mu.Unlock()
	// An agent that comes anew does not know what its station sees, and tells all of it again.
	host.stop()
	host.connect(t)
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		one.mu.Lock()
		defer one.mu.Unlock()
		if n := strings.Count(strings.Join(one.told, ";"), "initiation"); n != 2 || one.closed != 1 {
			return fmt.Errorf("%d initiations, %d connections closed", n, one.closed)
		}
		return nil
	})
}

// readDump renders the routes of an MRT file with the addresses of their peers, sorted.
func readDump(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var peers []*mrt.Peer
	var out []string
	r := bytes.NewReader(data)
	for {
		head := make([]byte, mrt.MRT_COMMON_HEADER_LEN)
		if _, err := io.ReadFull(r, head); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		h := &mrt.MRTHeader{}
		if err := h.DecodeFromBytes(head); err != nil {
			return "", err
		}
		body := make([]byte, h.Len)
		if _, err := io.ReadFull(r, body); err != nil {
			return "", err
		}
		msg, err := mrt.ParseMRTBody(h, body)
		if err != nil {
			return "", err
		}
		switch b := msg.Body.(type) {
		case *mrt.PeerIndexTable:
			peers = b.Peers
		case *mrt.Rib:
			for _, e := range b.Entries {
				hop := ""
				for _, a := range e.PathAttributes {
					switch a := a.(type) {
					case *gobgp.PathAttributeNextHop:
						hop = a.Value.String()
					case *gobgp.PathAttributeMpReachNLRI:
						hop = a.Nexthop.String()
					}
				}
				p := peers[e.PeerIndex]
				out = append(out, fmt.Sprintf("%s via %s from %s AS%d", b.Prefix, hop, p.IpAddress, p.AS))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; "), nil
}

func TestDump(t *testing.T) {
	t.Parallel()
	host, tor, conf, _ := pair(t, func(h, r *bgp.Peer) {
		h.Address, r.Address = addr("fd00:1::"), addr("fd00:1::1")
	})
	tor.announce(t, "10.64.2.0/26", "fd64:0:2::/64")
	host.established(t, "fd00:1::")
	host.fabric.want(t, 10*time.Second, "10.64.2.0/26 via [fd00:1::]; fd64:0:2::/64 via [fd00:1::]")
	file := filepath.Join(t.TempDir(), "table.mrt")
	conf.Dump = bgp.Dump{File: file, Interval: time.Second}
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	want := func(want string) {
		t.Helper()
		eventually(t, 15*time.Second, func() error {
			got, err := readDump(file)
			if err == nil && got != want {
				err = fmt.Errorf("dumped %q, want %q", got, want)
			}
			return err
		})
	}
	const ours = "10.64.1.0/26 via 0.0.0.0 from 0.0.0.0 AS65001; "
	want(ours + "10.64.2.0/26 via fd00:1:: from fd00:1:: AS65100; fd64:0:2::/64 via fd00:1:: from fd00:1:: AS65100")
	tor.announce(t, "10.64.2.0/26")
	want(ours + "10.64.2.0/26 via fd00:1:: from fd00:1:: AS65100")
	conf.Dump = bgp.Dump{}
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	if p := host.peer(t, "fd00:1::"); p.State != bgp.StateEstablished || p.Flaps != 0 {
		t.Errorf("%+v", p)
	}
	if _, err := os.Stat(file + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished dump was left behind: %v", err)
	}
}
