package bgp_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/tor/tortest"
)

// router is a real BGP implementation as the top-of-rack router.
type router interface {
	// learned returns what the router's own BGP table has from the host, with next hops, sorted.
	learned() (string, error)
	// session describes the session to the host: what changes when it flaps.
	session(t testing.TB) string
}

const password = "s3cret"

type frr struct{ tortest.FRR }

const frrConf = `
no zebra nexthop kernel enable
router bgp 65101
 bgp router-id 192.0.2.101
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 passive
 neighbor 10.0.1.1 timers 3 9
 neighbor 10.0.1.1 password ` + password + `
 address-family ipv4 unicast
  neighbor 10.0.1.1 activate
  network 0.0.0.0/0
  network 10.64.2.0/26
  network 10.64.4.0/26
  network 172.16.0.0/12
 exit-address-family
 address-family ipv6 unicast
  neighbor 10.0.1.1 activate
  network ::/0
  network fd64:0:2::/64
 exit-address-family
`

// startFRR runs zebra and bgpd in the namespace. The router is AS 65101 at 10.0.1.0, the host 10.0.1.1.
func startFRR(t testing.TB, ns netns.NS) frr {
	t.Helper()
	return startFRRWith(t, ns, frrConf)
}

func startFRRWith(t testing.TB, ns netns.NS, conf string) frr {
	t.Helper()
	return frr{tortest.StartFRR(t, ns, "bgpd", conf)}
}

func (f frr) show(command string, into any) error {
	out, err := exec.Command("vtysh", "-N", f.Instance, "-c", command).Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		return fmt.Errorf("vtysh %s: %w\n%s", command, err, out)
	}
	return nil
}

func (f frr) run(command string) (string, error) {
	out, err := exec.Command("vtysh", "-N", f.Instance, "-c", command).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("vtysh %s: %w\n%s", command, err, out)
	}
	return string(out), err
}

func (f frr) learned() (string, error) {
	var all []string
	for _, fam := range []string{"ipv4", "ipv6"} {
		var table struct {
			Routes map[string][]struct {
				Valid    bool
				PeerID   string `json:"peerId"`
				Nexthops []struct{ IP, Scope string }
			}
		}
		if err := f.show("show bgp "+fam+" unicast json", &table); err != nil {
			return "", err
		}
		for _, p := range slices.Sorted(maps.Keys(table.Routes)) {
			for _, path := range table.Routes[p] {
				if path.PeerID == "10.0.1.1" && path.Valid && len(path.Nexthops) > 0 {
					all = append(all, p+" via "+path.Nexthops[0].IP)
				}
			}
		}
	}
	return strings.Join(all, "; "), nil
}

func (f frr) session(t testing.TB) string {
	t.Helper()
	var n map[string]struct {
		BgpState               string
		ConnectionsEstablished int
		MessageStats           struct{ UpdatesRecv int }
	}
	if err := f.show("show bgp neighbors 10.0.1.1 json", &n); err != nil {
		t.Fatal(err)
	}
	p := n["10.0.1.1"]
	return fmt.Sprintf("%s, established %d times, %d updates", p.BgpState, p.ConnectionsEstablished, p.MessageStats.UpdatesRecv)
}

type bird struct{ tortest.BIRD }

// startBIRD runs BIRD in the namespace. The router is AS 65102 at 10.0.2.0, the host 10.0.2.1.
func startBIRD(t testing.TB, ns netns.NS) bird {
	t.Helper()
	return startBIRDWith(t, ns, `
router id 192.0.2.102;
protocol device {}
protocol static s4 { ipv4; route 0.0.0.0/0 blackhole; route 10.64.2.0/26 blackhole; route 10.64.4.0/28 blackhole; route 10.64.0.0/12 blackhole; }
protocol static s6 { ipv6; route ::/0 blackhole; route fd64:0:2::/64 blackhole; }
protocol bgp host {
  local 10.0.2.0 as 65102;
  neighbor 10.0.2.1 as 65001;
  passive on;
  hold time 9;
  keepalive time 3;
  error wait time 1, 2; # by default it refuses us for a minute after its link was down
  ipv4 { import all; export where source = RTS_STATIC; };
  ipv6 { import all; export where source = RTS_STATIC; next hop address fd00:2::; };
}
`)
}

func startBIRDWith(t testing.TB, ns netns.NS, conf string) bird {
	t.Helper()
	return bird{tortest.StartBIRD(t, ns, t.TempDir(), conf)}
}

func (b bird) run(args ...string) (string, error) {
	out, err := exec.Command("/usr/sbin/birdc", append([]string{"-s", b.Control}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("birdc %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

func (b bird) show(args ...string) (string, error) {
	out, err := exec.Command("/usr/sbin/birdc", append([]string{"-r", "-s", b.Control, "show"}, args...)...).Output()
	if err != nil {
		return "", fmt.Errorf("birdc show %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}

var birdRoute = regexp.MustCompile(`(?m)^(\S+/\d+) .*\n\s+via (\S+) on`)

func (b bird) learned() (string, error) {
	out, err := b.show("route", "protocol", "host")
	if err != nil {
		return "", err
	}
	var all []string
	for _, m := range birdRoute.FindAllStringSubmatch(out, -1) {
		all = append(all, m[1]+" via "+m[2])
	}
	slices.Sort(all)
	return strings.Join(all, "; "), nil
}

var birdSession = regexp.MustCompile(`(?s)host\s+BGP\s+\S+\s+(\S+)\s+(\S+).*?Import updates:\s+(\d+)`)

func (b bird) session(t testing.TB) string {
	t.Helper()
	out, err := b.show("protocols", "all", "host")
	if err != nil {
		t.Fatal(err)
	}
	m := birdSession.FindStringSubmatch(out)
	if m == nil {
		return "unknown"
	}
	return strings.Join(m[1:], " ")
}

func wantLearned(t testing.TB, r router, within time.Duration, want string) {
	t.Helper()
	eventually(t, within, func() error {
		got, err := r.learned()
		if err == nil && got != want {
			err = fmt.Errorf("%T has %q, want %q", r, got, want)
		}
		return err
	})
}
