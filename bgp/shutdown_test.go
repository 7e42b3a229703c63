package bgp_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
)

// lastDown is what a router says of the end of its session to the host.
func (f frr) lastDown() (string, error) {
	out, err := exec.Command("vtysh", "-N", f.Instance, "-c", "show bgp neighbors 10.0.1.1").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("vtysh: %w: %s", err, out)
	}
	log, err := os.ReadFile(filepath.Join(f.Run(), "bgpd.log")) // where it puts the text
	return string(out) + string(log), err
}

func (b bird) lastDown() (string, error) {
	return b.show("protocols", "all", "host")
}

func wantDown(t *testing.T, r interface{ lastDown() (string, error) }, words ...string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		text, err := r.lastDown()
		if err != nil {
			return err
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				return fmt.Errorf("%T does not say %q:\n%s", r, w, text)
			}
		}
		return nil
	})
}

// TestShutdown holds the routers' sessions down with a reason that they show, over a restart of client and speaker, and takes
// them up again.
func TestShutdown(t *testing.T) {
	r := newRack(t)
	if out, err := exec.Command("vtysh", "-N", r.frr.Instance, "-c", "debug bgp neighbor-events").CombinedOutput(); err != nil {
		t.Fatalf("vtysh: %v: %s", err, out)
	}
	down := r.conf
	down.Shutdown = "memory module replaced, back at 14:00 – ops"
	r.host.announce(t)
	if err := r.host.Configure(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.0.1.0", "10.0.2.0"} {
		if p := r.host.peer(t, a); p.State != bgp.StateAdminDown {
			t.Errorf("peer %s is %s right after a shutdown", a, p.State)
		}
	}
	wantDown(t, r.frr, "Cease/Administrative Shutdown", `6/2 (Cease/Administrative Shutdown) "memory module replaced, back at 14:00 `) // it escapes the dash
	wantDown(t, r.bird, "Administrative shutdown", down.Shutdown)
	wantLearned(t, r.frr, 5*time.Second, "")
	wantLearned(t, r.bird, 5*time.Second, "")
	r.host.fabric.want(t, 5*time.Second, "")

	down.Shutdown = "another reason"
	if err := r.host.Configure(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	r.host.respawn(t)
	r.host.fabric.waitSynced(t, 2) // there is nobody to wait for
	for _, a := range []string{"10.0.1.0", "10.0.2.0"} {
		if p := r.host.peer(t, a); p.State != bgp.StateAdminDown {
			t.Errorf("peer %s is %s at a new speaker", a, p.State)
		}
	}
	r.host.stop()
	r.host.warm = true // as an agent believes that was killed together with its speaker
	r.host.connect(t)
	r.host.announce(t)
	if err := r.host.Configure(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	if p := r.host.peer(t, "10.0.1.0"); p.State != bgp.StateAdminDown {
		t.Errorf("peer is %s with a new client", p.State)
	}

	start := time.Now()
	if err := r.host.Configure(t.Context(), r.conf); err != nil {
		t.Fatal(err)
	}
	r.host.announce(t, "10.64.1.0/26", "fd64:0:1::/64")
	wantLearned(t, r.frr, 20*time.Second, atFRR)
	wantLearned(t, r.bird, 20*time.Second, atBIRD)
	r.host.fabric.want(t, 10*time.Second, atHost)
	t.Logf("everything is back after %s", time.Since(start).Round(10*time.Millisecond))
}

// TestShutdownOfASpeakerThatGoesOn takes the sessions of the same speaker up again, and tries the shortest way down and up.
func TestShutdownOfASpeakerThatGoesOn(t *testing.T) {
	t.Parallel()
	host, tor, conf, _ := pair(t, func(_, _ *bgp.Peer) {})
	host.established(t, "10.0.1.0")
	down := conf
	down.Shutdown = "x"
	for range 3 {
		if err := host.Configure(t.Context(), down); err != nil {
			t.Fatal(err)
		}
		if err := host.Configure(t.Context(), conf); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	host.established(t, "10.0.1.0")
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	t.Logf("session and route are back after %s", time.Since(start).Round(10*time.Millisecond))

	// An agent that ended between its wish and the speaker's following it.
	if err := host.Configure(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	host.stop()
	host.connect(t)
	host.configure(t, conf, "10.64.1.0/26")
	host.established(t, "10.0.1.0")
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
}

func TestCommunications(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"": true, "host shutdown": true, "größer": true, strings.Repeat("x", 255): true,
		strings.Repeat("x", 256): false, strings.Repeat("ü", 128): false, "a\nb": false, "a\x00": false, "\xff": false,
	} {
		if err := bgp.ValidCommunication(text); (err == nil) != ok {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	conf := hostConfig()
	conf.Shutdown = "a\nb"
	if err := conf.Validate(); err == nil || !strings.Contains(err.Error(), "shutdown: communication") {
		t.Errorf("configuration: %v", err)
	}
}

// TestLeave has the routers see each step of leaving and of coming back.
func TestLeave(t *testing.T) {
	r := newRack(t)
	seen := func(frrPath, birdPath string, frrGraceful, birdGraceful bool) {
		t.Helper()
		eventually(t, 5*time.Second, func() error {
			out, err := exec.Command("vtysh", "-N", r.frr.Instance, "-c", "show bgp ipv4 unicast 10.64.1.0/26").CombinedOutput()
			if err != nil {
				return fmt.Errorf("vtysh: %w: %s", err, out)
			}
			text := string(out)
			if !strings.Contains(text, "\n  "+frrPath+"\n") || strings.Contains(text, "Community: graceful-shutdown") != frrGraceful {
				return fmt.Errorf("FRR has\n%s", text)
			}
			if text, err = r.bird.show("route", "all", "10.64.1.0/26"); err != nil {
				return err
			}
			if !strings.Contains(text, "BGP.as_path: "+birdPath+"\n") || strings.Contains(text, "BGP.community: (65535,0)") != birdGraceful {
				return fmt.Errorf("BIRD has\n%s", text)
			}
			return nil
		})
	}
	conf := r.conf
	step := func(l bgp.Leave) {
		t.Helper()
		conf.Leave = l
		if err := r.host.Configure(t.Context(), conf); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		seen("65001", "65001", false, false)
		step(bgp.LeaveLonger)
		seen("65001", "65001 65001", false, false)
		step(bgp.LeaveOthers)
		seen("65001", "65001 65001", false, true)
		step(bgp.LeaveAll)
		seen("65001", "65001 65001", true, true)
		wantLearned(t, r.frr, 5*time.Second, atFRR)
		wantLearned(t, r.bird, 5*time.Second, atBIRD)
		step(bgp.LeaveOthers)
		seen("65001", "65001 65001", false, true)
		step(bgp.Stay)
	}
	if s := r.frr.session(t); !strings.Contains(s, "established 1 times") {
		t.Errorf("FRR's session is %s", s)
	}
}
