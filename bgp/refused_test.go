package bgp_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// birdAnnouncing is the configuration of a BIRD that announces the prefixes: "PREFIX" or "PREFIX via NEXTHOP", of both
// families.
func birdAnnouncing(prefixes ...string) string {
	var b, hops strings.Builder
	b.WriteString("router id 192.0.2.102;\nprotocol device {}\n")
	for family, table := range map[bool]string{true: "ipv4", false: "ipv6"} {
		fmt.Fprintf(&b, "protocol static s%s {\n %s;\n", table, table)
		for _, p := range prefixes {
			p, hop, has := strings.Cut(p, " via ")
			if strings.Contains(p, ".") != family {
				continue
			}
			fmt.Fprintf(&b, " route %s blackhole;\n", p)
			if has {
				fmt.Fprintf(&hops, " if net = %s then bgp_next_hop = %s;\n", p, hop)
			}
		}
		b.WriteString("}\n")
	}
	return b.String() + "filter announced {\n if source != RTS_STATIC then reject;\n" + hops.String() + " accept;\n}\n" + `
protocol bgp host {
  local 10.0.2.0 as 65102;
  neighbor 10.0.2.1 as 65001;
  passive on;
  hold time 9;
  keepalive time 3;
  ipv4 { import all; export filter announced; };
  ipv6 { import all; export filter announced; next hop address fd00:2::; };
}
`
}

func (b bird) announce(t *testing.T, prefixes ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(b.Control), "bird.conf"), []byte(birdAnnouncing(prefixes...)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/birdc", "-s", b.Control, "configure").CombinedOutput(); err != nil {
		t.Fatalf("birdc configure: %v\n%s", err, out)
	}
}

// refused prints what is refused of a peer: the counts of its families, and the prefixes.
func refused(p bgp.PeerStatus) string {
	var parts []string
	for _, f := range p.Families {
		r := f.Refused
		parts = append(parts, fmt.Sprintf("%s own=%d unlisted=%d loop=%d unusable=%d", f.Family, r.OwnSpace, r.NotListed, r.Loop, f.Unusable+r.NextHop))
	}
	slices.Sort(parts)
	for _, r := range p.Refused {
		s := fmt.Sprintf("%v %s", r.Prefix, r.Reason)
		if r.Own.IsValid() {
			s += fmt.Sprintf(" %v AS%d", r.Own, r.Origin)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

func (n *node) wantRefused(t *testing.T, peer, want string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if got := refused(n.peer(t, peer)); got != want {
			return fmt.Errorf("refused of %s: %q, want %q", peer, got, want)
		}
		return nil
	})
}

// TestPolicyBreakingPeer has a router announce our block, part of it, a prefix that covers it, what nobody asked for, and
// next hops that are not on the link, beside a good router: none of it is taken, each is counted and told of, and is
// forgotten when it ends.
func TestPolicyBreakingPeer(t *testing.T) {
	t.Parallel()
	h, r1, r2 := nstest.New(t, "host"), nstest.New(t, "frr"), nstest.New(t, "bird")
	cable(t, h, r1, 1)
	cable(t, h, r2, 2)
	startFRR(t, r1)
	good := []string{"0.0.0.0/0", "10.64.6.0/26", "::/0"}
	bird := startBIRDWith(t, r2, birdAnnouncing(good...))
	host := newNode(t, h, "host")
	c := hostConfig(
		bgp.Peer{Address: addr("10.0.1.0"), ASN: 65101, Password: password, Subnets: []netip.Prefix{pfx("10.0.1.1/31"), pfx("fd00:1::1/127")}},
		bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102, Subnets: []netip.Prefix{pfx("10.0.2.1/31"), pfx("fd00:2::1/127")}})
	host.configure(t, c, "10.64.1.0/26", "fd64:0:1::/64")
	const all = "0.0.0.0/0 via [10.0.1.0 10.0.2.0]; 10.64.2.0/26 via [10.0.1.0]; 10.64.6.0/26 via [10.0.2.0]; " +
		"::/0 via [fd00:1:: fd00:2::]; fd64:0:2::/64 via [fd00:1::]"
	const none = "ipv4 own=0 unlisted=0 loop=0 unusable=0; ipv6 own=0 unlisted=0 loop=0 unusable=0"
	host.fabric.want(t, 20*time.Second, all)
	host.wantRefused(t, "10.0.2.0", none)
	host.wantRefused(t, "10.0.1.0", "ipv4 own=1 unlisted=1 loop=1 unusable=0; ipv6 own=0 unlisted=0 loop=0 unusable=0; "+
		"10.64.4.0/26 own_space 10.64.4.0/26 AS65101; 172.16.0.0/12 not_listed")

	start := time.Now()
	bird.announce(t, append([]string{
		"10.64.1.0/26", "10.64.1.16/28", "10.64.0.0/16", "198.51.100.0/24", "10.64.2.0/26 via 192.0.2.99",
		"10.64.5.0/26 via 10.0.1.0", "fd64:0:1::5/128", "fd64:0:2::/64 via fd00:9::1",
	}, good...)...)
	host.wantRefused(t, "10.0.2.0", "ipv4 own=3 unlisted=1 loop=0 unusable=2; ipv6 own=1 unlisted=0 loop=0 unusable=1; "+
		"10.64.0.0/16 own_space 10.64.1.0/26 AS65102; 10.64.1.0/26 own_space 10.64.1.0/26 AS65102; 10.64.1.16/28 own_space 10.64.1.0/26 AS65102; "+
		"fd64:0:1::5/128 own_space fd64:0:1::/64 AS65102; 10.64.2.0/26 next_hop; 10.64.5.0/26 next_hop; "+
		"198.51.100.0/24 not_listed; fd64:0:2::/64 next_hop")
	t.Logf("all told of after %s", time.Since(start).Round(time.Millisecond))
	host.fabric.want(t, 5*time.Second, all)
	if got := host.loggedErrors(); got != 5 { // one is the good router's
		t.Errorf("%d alarms in the log, want 5:\n%s", got, host.log)
	}

	bird.announce(t, good...)
	host.wantRefused(t, "10.0.2.0", none)
	host.fabric.want(t, 5*time.Second, all)
	host.fabric.never(t, "10.64.1.0/26", "10.64.1.16/28", "10.64.0.0/16", "198.51.100.0/24", "10.64.5.0/26")

	// A subnet that comes makes a next hop good that was not, and takes it back as it goes.
	bird.announce(t, append([]string{"10.64.5.0/26 via 10.0.9.9"}, good...)...)
	host.wantRefused(t, "10.0.2.0", strings.Replace(none, "unusable=0", "unusable=1", 1)+"; 10.64.5.0/26 next_hop")
	narrow := slices.Clone(c.Peers)
	c.Peers = slices.Clone(c.Peers)
	c.Peers[1].Subnets = append(slices.Clone(c.Peers[1].Subnets), pfx("10.0.9.1/24"))
	if err := host.Configure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	host.wantRefused(t, "10.0.2.0", none)
	host.fabric.want(t, 5*time.Second, strings.Replace(all, "10.64.6.0/26", "10.64.5.0/26 via [10.0.9.9]; 10.64.6.0/26", 1))
	c.Peers = narrow
	if err := host.Configure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	host.fabric.want(t, 5*time.Second, all)

	// Blocks that become ours while somebody announces them are found too: their policy is new, not their routes.
	bird.announce(t, append([]string{"10.64.7.0/26"}, good...)...)
	host.fabric.want(t, 5*time.Second, strings.Replace(all, "; ::/0", "; 10.64.7.0/26 via [10.0.2.0]; ::/0", 1))
	p := c.Policy.(bgp.HostPolicy)
	p.OwnSpace = append(slices.Clone(p.OwnSpace), pfx("10.64.7.0/26"))
	c.Policy = p
	if err := host.Configure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	host.fabric.want(t, 5*time.Second, all)
	host.wantRefused(t, "10.0.2.0", strings.Replace(none, "own=0", "own=1", 1)+"; 10.64.7.0/26 own_space 10.64.7.0/26 AS65102")
}

// never fails the test if one of the prefixes has ever been delivered.
func (f *fabric) never(t *testing.T, prefixes ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	have := slices.Concat(f.gone, slices.Collect(maps.Keys(f.routes)))
	for _, p := range prefixes {
		if slices.Contains(have, pfx(p)) {
			t.Errorf("%s was delivered", p)
		}
	}
}
