package bgp_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/hostile"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// magazine hands out items and remembers who took which.
type magazine struct {
	mu    sync.Mutex
	items []hostile.Item
	taken int
}

func (m *magazine) next() *hostile.Item {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken == len(m.items) {
		return nil
	}
	m.taken++
	return &m.items[m.taken-1]
}

func (m *magazine) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items) - m.taken
}

// mutations and their seed. Others were tried by hand.
const (
	mutationSeed = 1
	mutations    = 50
)

// TestCorpus has a crowd of hostile routers send every malformed message that is not known to be deadly. The speaker survives,
// and the session with the good router and its routes are as before.
func TestCorpus(t *testing.T) {
	t.Parallel()
	const crowd = 48
	b := &battlefield{bad: nstest.New(t, "bad")}
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 1)
	b.tor, b.host = newNode(t, r, "tor"), newNode(t, h, "host")
	conf := torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true})
	conf.GracefulRestart.HelperOnly = true
	b.tor.configure(t, conf, "10.64.2.0/26")

	b.conf = hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100})
	b.conf.Policy = bgp.HostPolicy{Import: []bgp.ImportRule{{Prefix: pfx("10.64.0.0/16"), MinLength: 26, MaxLength: 26}}}
	var addresses []string
	for i := range crowd {
		a := fmt.Sprintf("10.0.9.%d", i+1)
		addresses = append(addresses, a+"/24")
		b.conf.Peers = append(b.conf.Peers, bgp.Peer{Address: addr(a), ASN: badPeer.ASN})
	}
	err := netns.Cable(netns.End{NS: h, Link: "up9", Addresses: []string{"10.0.9.254/24"}}, netns.End{NS: b.bad, Link: "down9", Addresses: addresses})
	if err != nil {
		t.Fatal(err)
	}
	b.start(t)
	b.host.fabric.want(t, 10*time.Second, "10.64.2.0/26 via [10.0.1.0]")
	since := b.host.established(t, "10.0.1.0").Since

	var sessions, opens, old magazine
	for _, i := range hostile.Survivable(append(hostile.Corpus(badPeer), hostile.Mutations(badPeer, mutationSeed, mutations)...)) {
		switch {
		case i.Phase == hostile.AsOpen:
			opens.items = append(opens.items, i)
		case i.TwoOctets:
			old.items = append(old.items, i)
		default:
			sessions.items = append(sessions.items, i)
		}
	}
	var servers []*hostile.Server
	for i, p := range b.conf.Peers[1:] {
		from := &sessions
		if i%4 == 0 {
			from = &old
		} else if i == 1 || i == 2 {
			from = &opens
		}
		p2 := badPeer
		p2.Families = []uint16{1, 2}
		s := &hostile.Server{Peer: p2, Attack: from.next}
		servers = append(servers, s)
		attack(t, b.bad, p.Address.String(), s)
	}
	k := keepRunning(t, b.host)
	total := len(sessions.items) + len(opens.items) + len(old.items)
	eventually(t, 4*time.Minute, func() error {
		if n := sessions.left() + opens.left() + old.left(); n > 0 && k.deaths.Load() == 0 {
			return fmt.Errorf("%d of %d items not sent yet", n, total)
		}
		return nil
	})
	if k.deaths.Load() > 0 {
		_, report, _ := strings.Cut(k.lastWords(), "panic: ")
		t.Errorf("the speaker died:\n%.3000s", report)
		for i, s := range servers {
			if item, answer := s.Last(); item != nil && answer == nil {
				t.Logf("peer %s sent %q: %x", b.conf.Peers[i+1].Address, item.Name, item.Bytes)
			}
		}
		return
	}
	var sent, sessionsUp int64
	for _, s := range servers {
		sent += s.Attacks()
		sessionsUp += s.Sessions()
	}
	t.Logf("%d items of %d sent in %d sessions", sent, total, sessionsUp)
	b.unharmed(t)
	if p := b.host.peer(t, "10.0.1.0"); p.State != bgp.StateEstablished || p.Flaps > 0 || !p.Since.Equal(since) {
		t.Errorf("the good router's session is not as before: %+v", p)
	}
}
