package bgp_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/tor/tortest"
)

const ours = "10.64.1.0/26"

// longLivedRouter is what a router is told to keep our routes beyond the restart time, into its kernel.
type longLivedRouter struct {
	name  string
	n     int // of its cable
	asn   uint32
	start func(t testing.TB, ns netns.NS)
}

var longLivedRouters = []longLivedRouter{
	{"FRR", 1, 65101, func(t testing.TB, ns netns.NS) {
		startFRRWith(t, ns, strings.Replace(frrConf, " no bgp ebgp-requires-policy\n", " no bgp ebgp-requires-policy\n bgp long-lived-graceful-restart stale-time 3600\n", 1))
	}},
	// "long lived graceful restart aware" is BIRD's default.
	{"BIRD", 2, 65102, func(t testing.TB, ns netns.NS) {
		startBIRDWith(t, ns, `
router id 192.0.2.102;
protocol device {}
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol static s4 { ipv4; route 0.0.0.0/0 blackhole; route 10.64.2.0/26 blackhole; }
protocol bgp host {
  local 10.0.2.0 as 65102;
  neighbor 10.0.2.1 as 65001;
  passive on;
  hold time 9;
  keepalive time 3;
  error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; };
}
`)
	}},
}

func (r longLivedRouter) setUp(t *testing.T, gr bgp.GracefulRestart) (*node, netns.NS) {
	t.Helper()
	h, ns := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, ns, r.n)
	r.start(t, ns)
	host := newNode(t, h, "host")
	peer := bgp.Peer{Address: addr(fmt.Sprintf("10.0.%d.0", r.n)), ASN: r.asn}
	if r.name == "FRR" {
		peer.Password = password
	}
	c := hostConfig(peer)
	c.GracefulRestart = gr
	host.configure(t, c, ours)
	eventually(t, 20*time.Second, func() error {
		if !inKernel(t.Context(), ns) {
			return fmt.Errorf("%s is not in the kernel of %s", ours, r.name)
		}
		return nil
	})
	host.fabric.waitSynced(t, 1)
	return host, ns
}

// inKernel reports whether the namespace has a route to our prefix. A question that fails is asked again by its caller.
func inKernel(ctx context.Context, ns netns.NS) bool {
	out, err := ns.Output(ctx, "ip", "route", "show", ours)
	return err == nil && strings.HasPrefix(string(out), ours)
}

// TestLongLived kills the speaker for good: routers keep its routes for the restart time, and with long-lived graceful
// restart for as long as that says, too.
func TestLongLived(t *testing.T) {
	t.Parallel()
	const restart, long = 3 * time.Second, 8 * time.Second
	const late = 4 * time.Second // BIRD may doze for 3 s before it flushes
	for _, r := range longLivedRouters {
		for _, l := range []time.Duration{0, long} {
			t.Run(fmt.Sprintf("%s, %s", r.name, l), func(t *testing.T) {
				t.Parallel()
				host, ns := r.setUp(t, bgp.GracefulRestart{RestartTime: restart, Deferral: 2 * time.Second, LongLived: l})
				host.stop()
				start := time.Now()
				host.proc.signal(syscall.SIGKILL)
				eventually(t, restart+l+late, func() error {
					if inKernel(t.Context(), ns) {
						return fmt.Errorf("%s is in the router's kernel", ours)
					}
					return nil
				})
				kept := time.Since(start).Round(10 * time.Millisecond)
				t.Logf("kept for %s", kept)
				if kept < restart+l-time.Second {
					t.Errorf("kept for %s, want %s", kept, restart+l)
				}
			})
		}
	}
}

// TestLongLivedReturn brings the speaker back after the restart time: its routes were there all the time, and stay when the
// long-lived time of before is over.
func TestLongLivedReturn(t *testing.T) {
	t.Parallel()
	const restart, away, long = 2 * time.Second, 6 * time.Second, 8 * time.Second
	for _, r := range longLivedRouters {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			host, ns := r.setUp(t, bgp.GracefulRestart{RestartTime: restart, Deferral: 2 * time.Second, LongLived: long})
			killed := time.Now()
			polls := 0
			stays := func(until func() bool) {
				t.Helper()
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for !until() {
					<-tick.C
					out, err := ns.Output(t.Context(), "ip", "route", "show", ours)
					if err != nil {
						t.Fatal(err)
					}
					if polls++; len(out) == 0 {
						t.Fatalf("absent %s after the speaker was killed", time.Since(killed))
					}
				}
			}
			host.proc.signal(syscall.SIGKILL)
			stays(func() bool { return time.Since(killed) > away })
			host.proc = startSpeaker(t, host.ns, host.socket)
			back := time.Now()
			stays(func() bool { return time.Since(back) > long+restart })
			if p := host.peer(t, fmt.Sprintf("10.0.%d.0", r.n)); p.State != bgp.StateEstablished || p.LocalRestarting {
				t.Errorf("after the return: %+v", p)
			}
			host.fabric.waitSynced(t, 2)
			t.Logf("%d polls", polls)
		})
	}
}

// TestRouterDoesNotReturn kills a router that has said that it restarts gracefully, and to be long-lived: its routes are kept
// for the restart time, not longer, and not beside those of a living router.
func TestRouterDoesNotReturn(t *testing.T) {
	t.Parallel()
	const restart = 3 * time.Second
	for _, l := range []time.Duration{0, time.Minute} {
		for i, name := range []string{"FRR", "BIRD"} {
			t.Run(fmt.Sprintf("%s, %s", name, l), func(t *testing.T) {
				t.Parallel()
				h, r1, r2 := nstest.New(t, "host"), nstest.New(t, "frr"), nstest.New(t, "bird")
				cable(t, h, r1, 1)
				cable(t, h, r2, 2)
				f := startFRRWith(t, r1, strings.Replace(frrConf, " no bgp ebgp-requires-policy\n", ` no bgp ebgp-requires-policy
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time 3
 bgp long-lived-graceful-restart stale-time 3600
`, 1))
				b := startBIRDWith(t, r2, `
router id 192.0.2.102;
protocol device {}
protocol static s4 { ipv4; route 0.0.0.0/0 blackhole; route 10.64.2.0/26 blackhole; }
protocol static s6 { ipv6; route ::/0 blackhole; route fd64:0:2::/64 blackhole; }
protocol bgp host {
  local 10.0.2.0 as 65102;
  neighbor 10.0.2.1 as 65001;
  passive on;
  hold time 9;
  graceful restart on;
  graceful restart time 3;
  long lived graceful restart on;
  long lived stale time 3600;
  ipv4 { import all; export where source = RTS_STATIC; };
  ipv6 { import all; export where source = RTS_STATIC; next hop address fd00:2::; };
}
`)
				host := newNode(t, h, "host")
				c := hostConfig(
					bgp.Peer{Address: addr("10.0.1.0"), ASN: 65101, Password: password, NextHop6: addr("fd00:1::1")},
					bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102, NextHop6: addr("fd00:2::1")})
				c.GracefulRestart = bgp.GracefulRestart{RestartTime: 5 * time.Second, Deferral: 2 * time.Second, LongLived: l}
				host.configure(t, c, ours)
				host.fabric.want(t, 20*time.Second, atHost)
				dead, alive := i+1, 2-i
				start := time.Now()
				tortest.KillPIDFile(t, []string{filepath.Join(f.Run(), "bgpd.pid"), filepath.Join(filepath.Dir(b.Control), "b.pid")}[i])
				gone := strings.ReplaceAll(atHost, "[10.0.1.0 10.0.2.0]", fmt.Sprintf("[10.0.%d.0]", alive))
				gone = strings.ReplaceAll(gone, "[fd00:1:: fd00:2::]", fmt.Sprintf("[fd00:%d::]", alive))
				host.fabric.want(t, restart+3*time.Second, gone)
				kept := time.Since(start).Round(10 * time.Millisecond)
				t.Logf("kept for %s", kept)
				if kept < restart-time.Second {
					t.Errorf("kept for %s, its restart time is %s", kept, restart)
				}
				eventually(t, 3*time.Second, func() error {
					if p := host.peer(t, fmt.Sprintf("10.0.%d.0", dead)); p.PeerRestarting {
						return fmt.Errorf("still thought to restart: %+v", p)
					}
					return nil
				})
			})
		}
	}
}
