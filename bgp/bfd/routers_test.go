package bfd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/tor/tortest"
)

type frr struct{ tortest.FRR }

// startFRR runs zebra and bfdd; wrapper is a command that runs a command.
func startFRR(t testing.TB, ns netns.NS, interval time.Duration, wrapper ...string) frr {
	t.Helper()
	ms := strconv.Itoa(int(interval.Milliseconds()))
	conf := "bfd\n"
	for _, peer := range []string{"10.1.0.1 interface eth0", "fd00:1::1 local-address fd00:1::a interface eth0", "fe80::1 local-address fe80::a interface eth0"} {
		conf += " peer " + peer + "\n  receive-interval " + ms + "\n  transmit-interval " + ms + "\n  no shutdown\n exit\n"
	}
	return frr{tortest.StartFRR(t, ns, "bfdd", conf+"exit\n", wrapper...)}
}

func (f frr) command(t testing.TB, lines ...string) string {
	t.Helper()
	args := []string{"-N", f.Instance}
	for _, l := range lines {
		args = append(args, "-c", l)
	}
	out, err := exec.Command("vtysh", args...).Output()
	if err != nil {
		t.Fatalf("vtysh %q: %v\n%s", lines, err, out)
	}
	return string(out)
}

type frrPeer struct {
	Peer             string
	Status           string
	Downs            uint64 `json:"session-down"`
	In               uint64 `json:"control-packet-input"`
	Out              uint64 `json:"control-packet-output"`
	Diagnostic       string `json:"diagnostic"`
	RemoteDiagnostic string `json:"remote-diagnostic"`
	RemoteTx         int    `json:"remote-transmit-interval"` // ms
	RemoteMultiplier int    `json:"remote-detect-multiplier"`
}

func (f frr) peers(t testing.TB, what string) map[string]frrPeer {
	t.Helper()
	var list []frrPeer
	out := f.command(t, "show bfd peers "+what+"json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	peers := map[string]frrPeer{}
	for _, p := range list {
		peers[p.Peer] = p
	}
	return peers
}

func (f frr) downs(t testing.TB) uint64 {
	t.Helper()
	var sum uint64
	for _, p := range f.peers(t, "counters ") {
		sum += p.Downs
	}
	return sum
}

type bird struct {
	tortest.BIRD
	log string
}

// startBIRD logs every change of a BFD session, since it counts none.
func startBIRD(t testing.TB, ns netns.NS, dir string, interval time.Duration, wrapper ...string) bird {
	t.Helper()
	b := bird{log: filepath.Join(dir, "bird.log")}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(b.log)
			t.Logf("BIRD:\n%s", text)
		}
	})
	b.BIRD = tortest.StartBIRD(t, ns, dir, fmt.Sprintf(`log "%s" all;
router id 192.0.2.2;
protocol device {}
protocol bfd {
	debug { events, states };
	interface "eth0" { interval %d ms; multiplier 3; };
	neighbor 10.2.0.1 dev "eth0" local 10.2.0.0;
	neighbor fd00:2::1 dev "eth0" local fd00:2::a;
	neighbor fe80::1 dev "eth0" local fe80::a;
}
`, b.log, interval.Milliseconds()), wrapper...)
	return b
}

// states are those of BIRD's sessions by the peer's address.
func (b bird) states(t testing.TB) map[string]string {
	t.Helper()
	out, err := exec.Command("birdc", "-r", "-s", b.Control, "show bfd sessions").Output()
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 6 && f[1] == "eth0" {
			states[f[0]] = f[2]
		}
	}
	return states
}

// downs counts how often BIRD has said that a session was Up no more.
func (b bird) downs(t testing.TB) uint64 {
	t.Helper()
	text, err := os.ReadFile(b.log)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(strings.Count(string(text), "changed state from Up"))
}
