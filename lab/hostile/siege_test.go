package hostile_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/hostile"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/tor"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// siege is a rack of two hosts of which one of the two routers has gone over to the enemy, as seen by the first host.
type siege struct {
	lab        *fabric.Lab
	hosts      *workload.Hosts
	victim     fabric.Host
	client     apiv1.HostfabricClient
	good       fabric.Router
	link       fabric.Link // to the hostile router
	containers []workload.Container
}

func newSiege(t *testing.T, kind tor.Kind, bad int) *siege {
	t.Helper()
	shape := fabric.Shape{Name: "hos" + string(kind), Dir: filepath.Join(fabric.DefaultDir, "h"), Racks: 1, Hosts: 2, Containers: 2, Tor: kind}
	lab, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	victim := lab.Plan.AllHosts()[0]
	s := &siege{lab: lab, hosts: hosts, victim: victim, good: lab.Plan.Racks[0].ToRs[1-bad], link: victim.Links[bad]}
	var err error
	if s.client, err = s.hosts.Client(victim.Name); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.hosts.AwaitRoutes(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if s.containers, err = s.hosts.AttachAll(ctx, nil); err != nil {
		t.Fatal(err)
	}
	// The other router leaves in order, so that all traffic goes through the good one.
	if err := lab.Tor(lab.Plan.Racks[0].ToRs[bad].Name).Stop(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "all routes lead through the good router", func() bool { return s.oneLeg(t) })
	return s
}

// oneLeg tells whether both hosts' fabric routes have one next hop.
func (s *siege) oneLeg(t *testing.T) bool {
	for _, h := range s.lab.Plan.AllHosts() {
		c, err := s.hosts.Client(h.Name)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.ListRoutes(t.Context(), &apiv1.ListRoutesRequest{Owner: "fabric"})
		if err != nil {
			return false
		}
		for _, r := range resp.GetRoutes() {
			if len(r.GetNextHops()) != 1 {
				return false
			}
		}
	}
	return true
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not so within %s: %s", within, what)
		case <-tick.C:
		}
	}
}

// attack puts the hostile router in the place of the one that left, until the test ends.
func (s *siege) attack(t *testing.T, item hostile.Item) *hostile.Server {
	t.Helper()
	ns := s.lab.Plan.Racks[0].ToRs[slices.IndexFunc(s.lab.Plan.Racks[0].ToRs, func(r fabric.Router) bool { return r.Name == s.link.Peer })].NS
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(s.link.PeerAddr, 179).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	srv := &hostile.Server{
		Peer:   hostile.Peer{ASN: s.link.PeerASN, RouterID: netip.MustParseAddr("192.0.2.66"), HoldTime: 9, Restart: true},
		Attack: func() *hostile.Item { return &item },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return srv
}

// watch polls the good router's kernel for the victim's block.
func (s *siege) watch(ctx context.Context) (polls, absent int) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		have, err := s.lab.Tor(s.good.Name).KernelPrefixes(ctx, s.victim.Blocks[0])
		if ctx.Err() != nil {
			return polls, absent
		}
		polls++
		if err != nil || !slices.Contains(have, s.victim.Blocks[0]) {
			absent++
		}
		select {
		case <-ctx.Done():
			return polls, absent
		case <-tick.C:
		}
	}
}

// attachEvery is slow enough for released addresses to be out of quarantine before the block is used up.
const attachEvery = time.Second

// attach attaches and detaches a container again and again.
func (s *siege) attach(ctx context.Context, netns string) (n int, err error) {
	whole := context.WithoutCancel(ctx) // what has begun is finished
	tick := time.NewTicker(attachEvery)
	defer tick.Stop()
	for ; ; n++ {
		id := fmt.Sprintf("meanwhile-%d", n)
		if _, err := s.client.Attach(whole, &apiv1.AttachRequest{ContainerId: id, Interface: "eth0", Netns: netns}); err != nil {
			return n, fmt.Errorf("attach %d: %w", n, err)
		}
		if _, err := s.client.Detach(whole, &apiv1.DetachRequest{ContainerId: id, Interface: "eth0"}); err != nil {
			return n, fmt.Errorf("detach %d: %w", n, err)
		}
		select {
		case <-ctx.Done():
			return n + 1, nil
		case <-tick.C:
		}
	}
}

// withstand runs the attack under traffic and attaches, and fails if a packet, a lease, an attach or a route is lost.
func (s *siege) withstand(t *testing.T, attack func()) {
	t.Helper()
	before, err := s.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	box := nstest.New(t, "box")
	a, b := s.containers[0].Endpoints[0], s.containers[len(s.containers)-1].Endpoints[0]
	stream, err := probe.StartStream(t.Context(), []probe.Pair{{From: a, To: b}, {From: b, To: a}}, probe.StreamOptions{Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var polls, absent, attaches int
	var attachErr error
	wg.Go(func() { polls, absent = s.watch(ctx) })
	wg.Go(func() { attaches, attachErr = s.attach(ctx, box.Path()) })
	attack()
	reports := stream.Stop()
	cancel()
	wg.Wait()
	for _, r := range reports {
		t.Logf("%s -> %s: %d packets sent, %d lost", r.Pair.From.Addr, r.Pair.To.Addr, r.Sent, r.Lost)
		if r.Lost > 0 || r.Sent == 0 {
			t.Errorf("%d of %d packets lost", r.Lost, r.Sent)
		}
	}
	t.Logf("the block polled %d times in the good router's kernel, absent %d times; %d attaches", polls, absent, attaches)
	if absent > 0 || polls == 0 {
		t.Errorf("the block was absent from the good router's kernel in %d of %d polls", absent, polls)
	}
	if attachErr != nil {
		t.Errorf("%d attaches, then: %v", attaches, attachErr)
	}
	eventually(t, 10*time.Second, "the leases are those of before", func() bool {
		after, err := s.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		return err == nil && after.GetLeases() == before.GetLeases() && after.GetEndpoints() == before.GetEndpoints()
	})
}

// held waits until the hostile router is held down, and returns the problem that the status shows.
func (s *siege) held(t *testing.T, within time.Duration, times string) (problem string) {
	t.Helper()
	eventually(t, within, "held down after the speaker process died "+times, func() bool {
		st, err := s.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
		if err != nil {
			return false
		}
		i := slices.IndexFunc(st.GetProblems(), func(p string) bool {
			return strings.HasPrefix(p, "peer "+s.link.PeerAddr.String()+" ") && strings.Contains(p, " is "+bgp.StateHeld+": ") &&
				strings.Contains(p, "after the speaker process died "+times+" on its messages")
		})
		if i >= 0 {
			problem = st.GetProblems()[i]
		}
		return i >= 0
	})
	return problem
}

// until reads the end of a hold-down from a problem.
func until(t *testing.T, problem string) time.Time {
	t.Helper()
	_, rest, _ := strings.Cut(problem, "held down until ")
	clock, _, _ := strings.Cut(rest, " ")
	end, err := time.ParseInLocation(time.TimeOnly, clock, time.Local)
	if err != nil {
		t.Fatalf("%q: %v", problem, err)
	}
	now := time.Now()
	end = time.Date(now.Year(), now.Month(), now.Day(), end.Hour(), end.Minute(), end.Second(), 0, time.Local)
	if end.Before(now.Add(-12 * time.Hour)) {
		end = end.AddDate(0, 0, 1)
	}
	return end
}

// TestSiege has a hostile router attack in every session it gets. It is held down ever longer, and nobody feels anything.
// allSieges has TestSiege take all its cases, some 10 minutes of them, in place of two.
var allSieges = flag.Bool("siege.all", false, "all sieges, not just those of CI")

func TestSiege(t *testing.T) {
	sub := func(p hostile.Peer) hostile.Item { return hostile.UnknownSubTLV(p.ASN) }
	path := func(p hostile.Peer) hostile.Item { return hostile.PathBeforePath(uint16(p.ASN)) }
	all := []string{"once", "2 times", "3 times"}
	for _, c := range []struct {
		name   string
		kind   tor.Kind
		bad    int // which router: hosts have them in this order in their configurations
		item   func(hostile.Peer) hostile.Item
		after  time.Duration
		deaths []string
	}{
		{"FRR, at once", tor.FRR, 1, path, 0, all[:2]},
		{"FRR, at once, hostile first", tor.FRR, 0, sub, 0, all[:2]},
		{"FRR, long after", tor.FRR, 1, sub, 15 * time.Second, all[:2]},
		{"BIRD, at once", tor.BIRD, 1, sub, 0, all[:2]},
		{"FRR, three times", tor.FRR, 1, path, 0, all},
		{"BIRD, long after, hostile first", tor.BIRD, 0, path, 15 * time.Second, all[:2]},
		{"FRR, nobody named", tor.FRR, 0, hostile.OpenAgain, 4 * time.Second, all[:2]},
		{"BIRD, nobody named", tor.BIRD, 1, hostile.OpenAgain, 4 * time.Second, all[:2]},
	} {
		if ci := c.bad == 1 && c.after == 0 && len(c.deaths) == 2; !ci && !*allSieges {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			s := newSiege(t, c.kind, c.bad)
			item := c.item(hostile.Peer{ASN: s.link.PeerASN, RouterID: netip.MustParseAddr("192.0.2.66"), HoldTime: 9})
			item.After = c.after
			speaker := filepath.Join("speaker", "gobgp.sock")
			first, err := supervisor.ListenerPID(s.lab.Plan.SocketPath(s.victim.Name, speaker))
			if err != nil {
				t.Fatal(err)
			}
			s.withstand(t, func() {
				srv := s.attack(t, item)
				var last time.Duration
				for _, times := range c.deaths {
					problem := s.held(t, 3*time.Minute, times)
					hold := time.Until(until(t, problem))
					t.Logf("%s (%s from now)", problem, hold.Round(time.Second))
					if hold < last*3/2 {
						t.Errorf("held for %s, before for %s", hold, last)
					}
					last = hold
				}
				t.Logf("%d attacks in %d sessions", srv.Attacks(), srv.Sessions())
				eventually(t, 10*time.Second, "the good router's session is up", func() bool {
					st, err := s.client.GetStatus(t.Context(), &apiv1.GetStatusRequest{})
					return err == nil && st.GetPeersEstablished() == 1
				})
			})
			if pid, err := supervisor.ListenerPID(s.lab.Plan.SocketPath(s.victim.Name, speaker)); err != nil || pid == first {
				t.Errorf("the speaker is process %d, %v; it was %d and must have died", pid, err, first)
			}
		})
	}
}
