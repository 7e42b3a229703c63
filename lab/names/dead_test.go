package names_test

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/resolve"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestDeadHosts: who asks about hosts that there are not, that do not answer or that point at one another has an answer soon, and
// the right one again when all is well.
func TestDeadHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t, fabric.Shape{Name: "nmd", Tor: tor.FRR, Racks: 2, Hosts: 1})
	addrs := r.attach(t, "r2h1", 0, "web")
	web, here, there := fqdn("web", "r2h1"), r.own(t, "r1h1", false), r.own(t, "r2h1", false)
	c := asker(t, r.host(t, "r1h1").NS, here)
	settles(t, c, web, "A", "NOERROR "+addrs[0])
	settles(t, c, fqdn("web", "r1h2"), "A", "NXDOMAIN") // all routes are known
	want(t, c, "r1h2."+strings.SplitN(web, ".", 3)[2], "AAAA", "NXDOMAIN", prompt)

	// Each believes that the other is the host.
	settled := func(host, server string) {
		r.configure(t, host, fmt.Sprintf("dns: {hosts: [{name: ghost, addresses: [%s], blocks: [10.70.0.0/24]}]}\n", server))
	}
	settled("r1h1", there.String())
	settled("r2h1", here.String())
	want(t, c, fqdn("web", "ghost"), "A", "SERVFAIL", prompt)
	want(t, c, "10.70.0.9", "PTR", "SERVFAIL", prompt)
	settled("r1h1", here.String()) // and that it is it itself
	want(t, c, fqdn("web", "ghost"), "A", "SERVFAIL", prompt)
	settled("r1h1", "203.0.113.1") // where nobody is
	want(t, c, fqdn("web", "ghost"), "A", "SERVFAIL", bound)
	r.configure(t, "r1h1", "")
	want(t, c, fqdn("web", "ghost"), "A", "NXDOMAIN", prompt)

	// The agent is killed; its speaker goes on announcing.
	kill(t, r.agent(t, "r2h1"))
	r.dead(t, c, web, addrs[0])
	r.drop(t, "r2h1", true)
	r.dead(t, c, web, addrs[0])
	r.drop(t, "r2h1", false)
	if err := r.lab.StartAgent("r2h1", programs.agent); err != nil {
		t.Fatal(err)
	}
	settles(t, c, web, "A", "NOERROR "+addrs[0])

	// The whole host dies, and its routers keep what it announced for as long as a restart may take. Then its cables go.
	speaker, err := supervisor.ListenerPID(r.lab.Plan.SocketPath("r2h1", "speaker/gobgp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	r.drop(t, "r2h1", true)
	kill(t, r.agent(t, "r2h1"))
	kill(t, speaker)
	r.dead(t, c, web, addrs[0])
	for _, router := range r.lab.Plan.Racks[1].ToRs {
		if err := r.lab.SetCable(router.Name, "r2h1", false); err != nil {
			t.Fatal(err)
		}
	}
	settles(t, c, web, "A", "NXDOMAIN")
	want(t, c, addrs[0], "PTR", "NXDOMAIN", prompt)
}

func (r *rig) agent(t *testing.T, host string) int {
	t.Helper()
	pid, err := r.lab.AgentPID(host)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// dead wants that nobody can say, within the time that is given.
func (r *rig) dead(t *testing.T, c *resolve.Client, name, addr string) {
	t.Helper()
	settles(t, c, name, "A", "SERVFAIL")
	want(t, c, name, "A", "SERVFAIL", bound)
	want(t, c, addr, "PTR", "SERVFAIL", bound)
}

// drop has a host drop all that comes to its DNS server, or ends that.
func (r *rig) drop(t *testing.T, host string, on bool) {
	t.Helper()
	rules := "delete table inet deaf"
	if on {
		rules = "table inet deaf { chain input { type filter hook input priority -200; th dport 53 drop; }; }"
	}
	cmd := exec.Command("nft", rules)
	out := &nstest.Output{}
	cmd.Stderr = out
	if err := r.host(t, host).NS.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft %s: %v: %s", rules, err, out)
	}
}
