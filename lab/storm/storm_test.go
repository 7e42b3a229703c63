package storm

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/probe"
)

var (
	lasts = flag.Duration("storm.for", 6*time.Second, "how long the storm lasts")
	seed  = flag.Uint64("storm.seed", 0, "of the storm's chances; 0 takes a new one")
)

const (
	callers   = 64
	room      = 180              // containers that the block has room for
	ready     = 8                // sandboxes
	patience  = 60 * time.Second // for what takes milliseconds on an idle machine
	quickKill = 300 * time.Millisecond
	slowKill  = 2500 * time.Millisecond
)

// TestStorm has 64 callers attach and detach containers by the CNI shim, over the API and from the pool of sandboxes, while the
// agent is killed every second or two. Whoever is told that a container is attached pings the host from it at once; whoever is
// told that it is not sees whether its link is gone. Requests that fail must say so in their protocol's words for an agent that
// is not there. Afterwards all accounts agree.
func TestStorm(t *testing.T) {
	s := newStorm(t)
	kills := s.rage(*lasts)
	t.Logf("%s, the agent killed %d times, seed %d: %s", *lasts, kills, s.seed, s.book)
	s.awaitAgreement("after the storm")
	for id, a := range s.book.standing() {
		s.verify(id, a)
	}
	s.detachAll()
	s.awaitAgreement("when all are detached")
	for _, lie := range s.book.lies {
		t.Error(lie)
	}
	if kills == 0 || s.book.outcomes["cni attach ok"] == 0 || s.book.outcomes["api attach ok"] == 0 || s.book.outcomes["sandbox attach ok"] == 0 {
		t.Error("there was no storm")
	}
}

type storm struct {
	t      *testing.T
	lab    *fabric.Lab
	host   fabric.Host
	client apiv1.HostfabricClient
	book   *book
	seed   uint64
	boxes  []netns.NS // of the callers, by their number
}

func newStorm(t *testing.T) *storm {
	shape := fabric.Shape{
		Name: "storm", Dir: filepath.Join(fabric.DefaultDir, "st"), Racks: 1, Hosts: 1, Containers: room, IPv6: true,
		Reconcile: time.Second, Sandboxes: ready,
	}
	lab, _ := fabrictest.Up(t, shape, programs.agent, programs.lab)
	s := &storm{t: t, lab: lab, host: lab.Plan.AllHosts()[0], book: newBook(), seed: *seed}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	for _, c := range s.host.Containers[:callers] {
		s.boxes = append(s.boxes, c.NS)
	}
	conn, err := grpc.NewClient("unix://"+s.socket("hostfabric.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.client = apiv1.NewHostfabricClient(conn)
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(lab.Plan.NodeDir(s.host.Name), "agent.log")); t.Failed() && err == nil {
			t.Logf("the agent's last words:\n%s", log[max(0, len(log)-20_000):])
		}
	})
	return s
}

func (s *storm) socket(name string) string { return s.lab.Plan.SocketPath(s.host.Name, name) }

// rage lets the storm loose, and returns how often the agent was killed. It runs when it ends.
func (s *storm) rage(lasts time.Duration) (kills int) {
	ctx, cancel := context.WithTimeout(s.t.Context(), lasts)
	defer cancel()
	shim := newCNI(s.host.NS, s.socket("cni.sock"), filepath.Join(s.lab.Plan.NodeDir(s.host.Name), "state", "cni-spool"))
	ways := []way{shim, api{s.client}, shim, sandboxes{s.client}}
	var all sync.WaitGroup
	for i := range callers {
		c := &caller{s: s, n: i, way: ways[i%len(ways)], stays: i/len(ways)%2 == 0, ns: s.boxes[i], chance: rand.New(rand.NewPCG(s.seed, uint64(i)))}
		all.Go(func() { c.run(ctx) })
	}
	chance := rand.New(rand.NewPCG(s.seed, callers))
	for pause(ctx, quickKill+time.Duration(chance.Int64N(int64(slowKill-quickKill)))) {
		s.kill()
		kills++
		pause(ctx, time.Duration(chance.Int64N(int64(quickKill))))
		if err := s.lab.StartAgent(s.host.Name, programs.agent); err != nil {
			s.t.Error(err)
			break
		}
	}
	all.Wait()
	return kills
}

// kill ends the agent at whatever it is doing.
func (s *storm) kill() {
	pid, err := s.lab.AgentPID(s.host.Name)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		s.t.Errorf("kill the agent: %v", err)
	}
	nstest.Eventually(s.t, patience, func() error {
		if pid, err := s.lab.AgentPID(s.host.Name); err == nil {
			return fmt.Errorf("agent %d still runs", pid)
		}
		return nil
	})
}

// verify holds an answered attach against the truth: the host answers the container from each of its addresses.
func (s *storm) verify(id string, a attachment) {
	var pairs []probe.Pair
	for _, addr := range a.addrs {
		i := slices.IndexFunc(s.host.Blocks, func(p netip.Prefix) bool { return p.Contains(addr) })
		if i < 0 {
			s.book.lie("%s was given %s, which is not in the host's blocks", id, addr)
			continue
		}
		host := probe.Endpoint{Name: s.host.Name, NS: s.host.NS, Addr: s.host.Blocks[i].Addr()}
		pairs = append(pairs, probe.Pair{From: probe.Endpoint{Name: id, NS: a.ns, Addr: addr}, To: host})
	}
	report, err := probe.Ping(s.t.Context(), pairs, probe.PingOptions{Timeout: patience})
	if err != nil || report.Lost > 0 {
		s.book.lie("%s was attached, but the host does not answer it: %v of %d, %v, %v", id, report.Lost, report.Sent, report.Refused, err)
	}
}

// linkedTo reports whether packets can still go to a container: its host end is there and up.
func (s *storm) linkedTo(link string) (up bool, err error) {
	err = s.host.NS.Do(func() error {
		all, err := net.Interfaces()
		up = slices.ContainsFunc(all, func(i net.Interface) bool { return i.Name == link && i.Flags&net.FlagUp != 0 })
		return err
	})
	return up, err
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
