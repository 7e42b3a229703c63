package peers_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/fabrictest"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestAgentRestartsBesideUnnumberedPeers: an agent that starts does not know the routers yet. Until it does, their sessions, of BGP
// and of BFD, go on as they were.
func TestAgentRestartsBesideUnnumberedPeers(t *testing.T) {
	for name, bfd := range map[string]bool{"with BFD": true, "without": false} {
		t.Run(name, func(t *testing.T) { agentRestarts(t, bfd) })
	}
}

func agentRestarts(t *testing.T, bfd bool) {
	shape := fabric.Shape{
		Name: "r2unn", Dir: filepath.Join(fabric.DefaultDir, "r2p"), // short: unix sockets live below it
		Racks: 1, Hosts: 1, Containers: 1, Tor: tor.FRR, IPv6: true, Unnumbered: true, BFD: bfd,
	}
	lab, hosts := fabrictest.Up(t, shape, programs.agent, programs.lab)
	r := &rig{lab: lab, hosts: hosts, victim: lab.Plan.AllHosts()[0]}
	within(t, 20*time.Second, "sessions up, and BFD", func() bool {
		for _, p := range r.peers(t) {
			if p.GetUptime().AsDuration() < 3*time.Second || bfd && !strings.EqualFold(p.GetBfd().GetState(), "up") {
				return false
			}
		}
		return r.allUp(t)()
	})
	since := func() map[string]time.Time {
		at := map[string]time.Time{}
		for _, p := range r.peers(t) {
			if up(p) {
				at[p.GetInterface()] = time.Now().Add(-p.GetUptime().AsDuration())
			}
		}
		return at
	}
	before := since()
	r.kill(t, r.agent(t))
	within(t, 5*time.Second, "agent gone", func() bool { return r.peers(t) == nil })
	if err := r.lab.StartAgent(r.victim.Name, programs.agent); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "agent back", func() bool { return r.peers(t) != nil })
	end := time.Now().Add(3 * time.Second)
	within(t, 20*time.Second, "sessions up", func() bool { return r.allUp(t)() && time.Now().After(end) })
	for link, at := range since() {
		if was := before[link]; at.Sub(was) > 1500*time.Millisecond {
			t.Errorf("the session on %s is another one, of %s after the former", link, at.Sub(was).Round(time.Millisecond))
		}
	}
}
