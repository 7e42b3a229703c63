package bfd_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp/bfd"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// TestPlannedStop holds what routers do with a BGP session, and with the routes from it, when BFD to its neighbour goes to AdminDown:
// the same as when the path is lost. RFC 5882, section 4.2, would have them do nothing. The host's BGP is a BIRD with graceful restart, which knows nothing of BFD.
func TestPlannedStop(t *testing.T) {
	for _, c := range []struct {
		name     string
		kind     tor.Kind
		graceful bool
		keeps    bool // the route, while the session is down
	}{
		{"FRR", tor.FRR, false, false},
		{"BIRD, bfd on", tor.BIRD, false, false},
		{"BIRD, bfd graceful", tor.BIRD, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rig{host: nstest.New(t, "host"), frrNS: nstest.New(t, "tor")}
			if err := netns.Cable(netns.End{NS: r.host, Link: "tor1", Addresses: []string{"10.1.0.1/31"}}, netns.End{NS: r.frrNS, Link: "eth0", Addresses: []string{"10.1.0.0/31"}}); err != nil {
				t.Fatal(err)
			}
			r.prepare(t)
			r.start(t)
			r.connect(t)
			router := startTor(t, r, c.kind, c.graceful)
			startSpeaker(t, r.host, r.dir)
			route := netip.MustParsePrefix("10.64.0.0/26")
			state := func() string {
				up, _, err := router.Established(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				found, err := router.Prefixes(t.Context(), route)
				if err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf("%d sessions, %d routes", up, len(found))
			}
			whole := func() {
				t.Helper()
				eventually(t, 30*time.Second, func() error {
					if s := state(); s != "1 sessions, 1 routes" {
						return fmt.Errorf("%s", s)
					}
					if st := r.status(t, netip.MustParseAddr("10.1.0.0"), "tor1"); st.State != bfd.Up || st.RxInterval != usual {
						return fmt.Errorf("%+v", st)
					}
					return nil
				})
			}
			r.set(t, session("10.1.0.0", "tor1", "10.1.0.1", usual))
			whole()
			reset := func(why string) { // the session is, and the route goes or stays
				t.Helper()
				want := "0 sessions, 0 routes"
				if c.keeps {
					want = "0 sessions, 1 routes"
				}
				eventually(t, 5*time.Second, func() error {
					switch s := state(); {
					case s == want:
						return nil
					case c.keeps && strings.HasSuffix(s, " 0 routes"):
						t.Fatalf("%s: %s", why, s)
						return nil
					default:
						return fmt.Errorf("%s: %s, want %s", why, s, want)
					}
				})
			}
			if err := r.client.AdminDown(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			reset("AdminDown")
			if err := r.client.AdminDown(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			whole()
			r.cmd.Process.Kill()
			<-r.ended
			reset("loss")
		})
	}
}

func startTor(t *testing.T, r *rig, kind tor.Kind, graceful bool) tor.Tor {
	t.Helper()
	driver, err := tor.New(kind, tor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.dir, "tor")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	router, err := driver.Start(t.Context(), tor.Node{
		Name: "bfdtor", NS: r.frrNS, Dir: dir, ASN: 65101, RouterID: netip.MustParseAddr("192.0.2.101"),
		Neighbors: []tor.Neighbor{{
			Name: "host", Link: "eth0", Address: netip.MustParseAddr("10.1.0.1"), Local: netip.MustParseAddr("10.1.0.0"), ASN: 65001, Passive: true,
			BFD: &tor.BFD{Interval: usual, Multiplier: 3, Graceful: graceful},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { router.Kill() })
	return router
}

// startSpeaker is the host's BGP.
func startSpeaker(t *testing.T, ns netns.NS, dir string) {
	t.Helper()
	conf := filepath.Join(dir, "speaker.conf")
	if err := os.WriteFile(conf, []byte(`router id 192.0.2.1;
protocol device {}
protocol static { ipv4; route 10.64.0.0/26 blackhole; }
protocol bgp tor {
	local 10.1.0.1 as 65001;
	neighbor 10.1.0.0 as 65101;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 2;
	graceful restart on;
	ipv4 { import all; export all; };
}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/bird", "-f", "-c", conf, "-s", filepath.Join(dir, "speaker.ctl"))
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}
