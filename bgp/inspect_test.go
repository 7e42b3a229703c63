package bgp_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// clis returns the gobgp command of Debian, which is older than our speaker, and that of the speaker's own version.
func clis(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("go", "tool", "-n", "gobgp").Output()
	if err != nil {
		t.Fatalf("build the gobgp command: %v", err)
	}
	return map[string]string{"debian": "/usr/bin/gobgp", "own version": strings.TrimSpace(string(out))}
}

func TestInspection(t *testing.T) {
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 1)
	tor, host := newNode(t, r, "tor"), newNode(t, h, "host", "127.0.0.1:50051")
	tor.configure(t, torConfig(bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true, Password: password, TTLSecurity: true}), "0.0.0.0/0")
	conf := hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100, Password: password, TTLSecurity: true, Interface: "up1"})
	host.configure(t, conf, "10.64.1.0/26")
	before := host.established(t, "10.0.1.0")
	tor.fabric.want(t, 5*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	state := func() string {
		list, err := host.Peers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		own, err := host.Announced(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d peers, announced %v, learned %s, tor %s", len(list), own, host.fabric, tor.fabric)
	}
	was := state()

	for name, cli := range clis(t) {
		t.Run("reads by gobgp of "+name, func(t *testing.T) {
			for want, args := range map[string][]string{
				"10.0.1.0 65100":   {"neighbor"},
				"BGP state = ESTA": {"neighbor", "10.0.1.0"},
				"10.64.1.0/26":     {"global", "rib"},
				"0.0.0.0/0":        {"neighbor", "10.0.1.0", "adj-in"},
				"AS:        65001": {"global"},
				"hostfabric-":      {"policy"},
			} {
				out, err := h.Output(t.Context(), cli, args...)
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("gobgp %v: %v\n%s\nwant %q in it", args, err, out, want)
				}
				if strings.Contains(string(out), password) {
					t.Errorf("gobgp %v shows the password", args)
				}
			}
			out, err := h.Output(t.Context(), cli, "-j", "neighbor")
			if err != nil || strings.Contains(string(out), password) {
				t.Errorf("gobgp -j neighbor: %v, or it shows the password", err)
			}
		})
		t.Run("writes by gobgp of "+name, func(t *testing.T) {
			for _, args := range []string{
				"global rib add 198.51.100.0/24",
				"global rib del 10.64.1.0/26",
				"global rib del all",
				"global del all",
				"neighbor add 10.0.1.9 as 65009",
				"neighbor del 10.0.1.0",
				"neighbor 10.0.1.0 reset",
				"neighbor 10.0.1.0 softresetout",
				"neighbor 10.0.1.0 disable",
				"neighbor 10.0.1.0 shutdown",
				"policy prefix add evil 0.0.0.0/0 0..32",
				"policy statement add evil",
				"policy add evil",
				"global policy export set default accept",
				"vrf add v rd 1:1 rt both 1:1",
				"bmp add 127.0.0.1",
				"log-level debug",
			} {
				out, err := h.Output(t.Context(), cli, strings.Fields(args)...)
				text := string(out)
				if err != nil {
					text += err.Error()
				}
				if !strings.Contains(text, "PermissionDenied") {
					t.Errorf("gobgp %s: %s\nwant PermissionDenied", args, text)
				}
			}
		})
	}
	if now := state(); now != was {
		t.Errorf("state changed by refused writes: %s, was %s", now, was)
	}
	if after := host.peer(t, "10.0.1.0"); !after.Since.Equal(before.Since) {
		t.Errorf("session since %s, was %s", after.Since, before.Since)
	}
}
