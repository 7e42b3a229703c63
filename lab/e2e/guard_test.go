package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// router is a BIRD at 10.0.N.0 whose host is 10.0.N.1, in AS 65100+N.
type router struct {
	t   *testing.T
	n   int
	dir string
}

func startRouter(t *testing.T, ns netns.NS, n int, prefixes ...string) router {
	t.Helper()
	r := router{t: t, n: n, dir: t.TempDir()}
	r.write(prefixes)
	cmd := exec.Command("/usr/sbin/bird", "-f", "-c", r.conf(), "-s", r.socket(), "-P", filepath.Join(r.dir, "bird.pid"))
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return r
}

func (r router) conf() string   { return filepath.Join(r.dir, "bird.conf") }
func (r router) socket() string { return filepath.Join(r.dir, "bird.ctl") }

// write has the router announce the prefixes: "PREFIX", "PREFIX via NEXTHOP", or "PREFIX far" with a longer AS path.
func (r router) write(prefixes []string) {
	r.t.Helper()
	var routes, hops strings.Builder
	for _, p := range prefixes {
		p, hop, has := strings.Cut(p, " via ")
		p, far := strings.CutSuffix(p, " far")
		fmt.Fprintf(&routes, " route %s blackhole;\n", p)
		if has {
			fmt.Fprintf(&hops, " if net = %s then bgp_next_hop = %s;\n", p, hop)
		}
		if far {
			fmt.Fprintf(&hops, " if net = %s then bgp_path.prepend(65000);\n", p)
		}
	}
	text := fmt.Sprintf("router id 192.0.2.%[1]d;\nprotocol device {}\nprotocol static s4 { ipv4;\n%[2]s}\n"+
		"filter announced {\n if source != RTS_STATIC then reject;\n%[3]s accept;\n}\n"+
		"protocol bgp host {\n local 10.0.%[1]d.0 as %[4]d;\n neighbor 10.0.%[1]d.1 as 65001;\n passive on;\n hold time 9;\n keepalive time 3;\n"+
		" ipv4 { import all; export filter announced; };\n}\n", r.n, routes.String(), hops.String(), 65100+r.n)
	if err := os.WriteFile(r.conf(), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r router) announce(prefixes ...string) {
	r.t.Helper()
	r.write(prefixes)
	r.birdc("configure")
}

func (r router) birdc(args ...string) string {
	r.t.Helper()
	out, err := exec.Command("/usr/sbin/birdc", append([]string{"-s", r.socket()}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("birdc %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// metrics reads the agent's metrics, as lines.
func (h *host) metrics() []string {
	h.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.run("metrics.sock"))
	}}}
	resp, err := client.Get("http://agent/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Split(string(body), "\n")
}

// wantProblems waits until the agent has these problems, each given by a part of it, and no others.
func (h *host) wantProblems(parts ...string) {
	h.t.Helper()
	h.eventually("the problems are as expected", func() error {
		s, err := h.client.GetStatus(h.t.Context(), &apiv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		left := slices.Clone(s.GetProblems())
		for _, part := range parts {
			i := slices.IndexFunc(left, func(p string) bool { return strings.Contains(p, part) })
			if i < 0 {
				return fmt.Errorf("no %q in %q", part, s.GetProblems())
			}
			left = slices.Delete(left, i, i+1)
		}
		if len(left) > 0 {
			return fmt.Errorf("also %q", left)
		}
		return nil
	})
}

func (h *host) wantMetrics(lines ...string) {
	h.t.Helper()
	have := h.metrics()
	for _, l := range lines {
		if !slices.Contains(have, l) {
			h.t.Errorf("no metric %q", l)
		}
	}
}

// guarded is a host between a good router, at 10.0.1.0, and one that breaks every rule, at 10.0.2.0.
func guarded(t *testing.T) (h *host, good, bad router) {
	tor1, tor2 := nstest.New(t, "good"), nstest.New(t, "bad")
	h = startHost(t, "grd", func(h *host) {
		for n, tor := range map[int]netns.NS{1: tor1, 2: tor2} {
			err := netns.Cable(
				netns.End{NS: h.ns, Link: fmt.Sprintf("up%d", n), Addresses: []string{fmt.Sprintf("10.0.%d.1/31", n)}},
				netns.End{NS: tor, Link: "down", Addresses: []string{fmt.Sprintf("10.0.%d.0/31", n)}})
			if err != nil {
				t.Fatal(err)
			}
		}
		good = startRouter(t, tor1, 1, "10.65.0.0/26", "10.66.0.0/26 far")
		bad = startRouter(t, tor2, 2, "10.65.0.0/26")
		text := fmt.Sprintf(`
asn: 65001
router_id: 192.0.2.101
peers:
  - {name: good, address: 10.0.1.0, asn: 65101}
  - {name: bad, address: 10.0.2.0, asn: 65102, max_prefixes: 100}
blocks: [10.64.1.0/26]
fabric: [10.64.0.0/12]
announce: {communities: ["65001:100"], large_communities: ["65001:1:2"]}
host: grd
bgp: {inspect: "off"}
ipam: {settle: 0s}
routes: {metric: 20}
metrics: {listen: "unix://%[1]s/run/metrics.sock"}
state_dir: %[1]s/state
run_dir: %[1]s/run
`, h.dir)
		if err := os.WriteFile(h.config(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return h, good, bad
}

// wantLearned waits until the kernel has the learned routes, and no others of ours but discard routes.
func (h *host) wantLearned(want string) {
	h.t.Helper()
	h.eventually("the kernel has the learned routes", func() error {
		var have []string
		for line := range strings.Lines(output(h.t, h.ns, "ip", "-4", "route", "show", "proto", "176")) {
			if f := strings.Fields(line); f[0] != "blackhole" && f[0] != "nexthop" {
				have = append(have, f[0])
			}
		}
		if got := strings.Join(have, " "); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// TestRouterThatBreaksTheRules has a router announce what is ours and next hops that are not on the link: refused, alarmed,
// counted, and over when it ends. The kernel has none of it at any time, and keeps the good router's route to where the other
// one has a shorter path through a worthless next hop.
func TestRouterThatBreaksTheRules(t *testing.T) {
	h, good, bad := guarded(t)
	before := output(t, h.ns, "ip", "route")
	h.eventually("both routers' routes are in the kernel", func() error {
		if before = output(t, h.ns, "ip", "route"); !strings.Contains(before, "nexthop via 10.0.2.0") || !strings.Contains(before, "10.66.0.0/26") {
			return fmt.Errorf("%s", before)
		}
		return nil
	})
	if tags := good.birdc("show", "route", "all", "10.64.1.0/26"); !strings.Contains(tags, "(65001,100)") || !strings.Contains(tags, "(65001, 1, 2)") {
		t.Errorf("the announcement is not tagged:\n%s", tags)
	}

	watch, stop := context.WithCancel(t.Context())
	seen := make(chan string, 1)
	go func() { seen <- h.watchRoutes(watch, before) }()
	bad.announce("10.65.0.0/26", "10.64.1.0/26", "10.64.1.16/28", "10.64.0.0/14", "192.0.2.0/24", "10.66.0.0/26 via 198.51.100.1", "10.67.0.0/26 via 10.0.1.0")
	h.wantProblems(
		"peer 10.0.2.0 (AS65102) announces 10.64.1.0/26, which is this host's: somebody else uses this host's addresses; it is refused",
		"announces 10.64.1.16/28, which is inside this host's 10.64.1.0/26",
		"announces 10.64.0.0/14, which covers this host's 10.64.1.0/26",
		"peer 10.0.2.0 (AS65102) sent 2 ipv4 prefixes without a usable next hop, such as 10.6",
	)
	h.wantMetrics(
		`hostfabric_bgp_own_space_alarm{peer="10.0.2.0"} 1`, `hostfabric_bgp_own_space_alarm{peer="10.0.1.0"} 0`,
		`hostfabric_bgp_refused_prefixes{family="ipv4",peer="10.0.2.0",reason="own_space"} 3`,
		`hostfabric_bgp_refused_prefixes{family="ipv4",peer="10.0.2.0",reason="not_listed"} 1`,
		`hostfabric_bgp_refused_prefixes{family="ipv4",peer="10.0.2.0",reason="next_hop"} 2`,
	)
	log, err := os.ReadFile(h.log())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"10.64.1.0/26", "10.64.1.16/28", "10.64.0.0/14"} {
		if n := strings.Count(string(log), `somebody else uses it" room=bgp peer=10.0.2.0 prefix=`+p+" "); n != 1 {
			t.Errorf("%d alarms for %s in the log, want 1", n, p)
		}
	}
	peers := output(t, h.ns, filepath.Join(bin, "hostfabric"), "peers", "--socket", h.run("hostfabric.sock"))
	if !strings.Contains(peers, "6, own space!") {
		t.Errorf("peers:\n%s", peers)
	}
	bad.announce("10.65.0.0/26")
	h.wantProblems()
	h.wantMetrics(`hostfabric_bgp_own_space_alarm{peer="10.0.2.0"} 0`)
	stop()
	if other := <-seen; other != "" {
		t.Errorf("the kernel's routes were\n%s\nand have been\n%s", before, other)
	}
}

// watchRoutes looks until ctx ends, and returns the first routes that differ.
func (h *host) watchRoutes(ctx context.Context, want string) string {
	for ctx.Err() == nil {
		out, err := h.ns.Output(ctx, "ip", "route")
		if err == nil && string(out) != want {
			return string(out)
		}
	}
	return ""
}

// TestHostsOwnRoutesStay has a router announce what the host has routes of its own for.
func TestHostsOwnRoutesStay(t *testing.T) {
	h, _, bad := guarded(t)
	for _, args := range []string{
		"link add lan0 type veth peer name lan1", "addr add 10.72.0.1/16 dev lan0", "link set lan1 up", "link set lan0 up",
		"route add 10.73.0.0/16 via 10.72.0.2 metric 9000", "route add default via 10.72.0.2 metric 9000",
	} {
		output(t, h.ns, "ip", strings.Fields(args)...)
	}
	bad.announce("10.65.0.0/26", "0.0.0.0/0", "10.72.0.0/16", "10.72.5.0/24", "10.73.0.0/16", "10.73.5.0/24")
	h.wantProblems(
		"learned route 0.0.0.0/0 is not installed: the host has its own route: 0.0.0.0/0 via 10.72.0.2 dev lan0 proto boot metric 9000; if that is meant, set import_default: false",
		"learned route 10.72.5.0/24 is not installed: it is in the network of a link: 10.72.0.0/16 dev lan0 proto kernel",
		"learned route 10.73.0.0/16 is not installed: the host has its own route: 10.73.0.0/16 via 10.72.0.2 dev lan0 proto boot metric 9000",
	) // 10.72.0.0/16 is no problem: routers announce the links they are on
	h.wantLearned("10.65.0.0/26 10.66.0.0/26 10.73.5.0/24")
	h.wantMetrics(`hostfabric_routes{state="refused"} 4`)
	output(t, h.ns, "ip", "route", "del", "default")
	output(t, h.ns, "ip", "route", "del", "10.73.0.0/16", "via", "10.72.0.2")
	output(t, h.ns, "ip", "link", "del", "lan0")
	h.wantProblems()
	h.wantLearned("default 10.65.0.0/26 10.66.0.0/26 10.72.0.0/16 10.72.5.0/24 10.73.0.0/16 10.73.5.0/24")
}

// TestTooManyPrefixes has a router announce more than it may: its session is down until somebody looks, and the other
// router's routes stay.
func TestTooManyPrefixes(t *testing.T) {
	h, _, bad := guarded(t)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.76.%d.0/24", i))
	}
	bad.announce(many...)
	h.wantProblems("peer 10.0.2.0 (AS65102) is Idle (PfxCt): prefix limit reached: more ipv4-unicast prefixes than allowed")
	h.wantLearned("10.65.0.0/26 10.66.0.0/26")
}
