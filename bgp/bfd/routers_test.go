package bfd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
)

type frr struct{ instance string }

// startFRR runs zebra and bfdd; wrapper is a command that runs a command.
func startFRR(t testing.TB, ns netns.NS, interval time.Duration, wrapper ...string) frr {
	t.Helper()
	f := frr{instance: fmt.Sprintf("bfdtest-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)}
	etc, run := filepath.Join("/etc/frr", f.instance), filepath.Join("/var/run/frr", f.instance)
	u, err := user.Lookup("frr")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	for _, d := range []string{etc, run} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(d) })
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	ms := strconv.Itoa(int(interval.Milliseconds()))
	conf := "bfd\n"
	for _, peer := range []string{"10.1.0.1 interface eth0", "fd00:1::1 local-address fd00:1::a interface eth0", "fe80::1 local-address fe80::a interface eth0"} {
		conf += " peer " + peer + "\n  receive-interval " + ms + "\n  transmit-interval " + ms + "\n  no shutdown\n exit\n"
	}
	for name, text := range map[string]string{"frr.conf": conf + "exit\n", "vtysh.conf": ""} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"zebra", "bfdd"} {
		argv := append(wrapper, "/usr/lib/frr/"+d, "-N", f.instance, "-d", "-P", "0", "-A", "127.0.0.1", "--log", "file:"+filepath.Join(run, d+".log"))
		if d == "bfdd" {
			argv = append(argv, "--bfdctl", filepath.Join(run, "bfdd.sock"))
		}
		if out, err := ns.Output(t.Context(), argv[0], argv[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", d, err, out)
		}
		t.Cleanup(func() { killPIDFile(t, filepath.Join(run, d+".pid")) })
	}
	if out, err := exec.Command("vtysh", "-N", f.instance, "-b").CombinedOutput(); err != nil {
		t.Fatalf("vtysh -b: %v\n%s", err, out)
	}
	return f
}

func killPIDFile(t testing.TB, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Error(err)
		return
	}
	syscall.Kill(pid, syscall.SIGKILL)
	// FRR buffers its logs there and a killed daemon leaves its folder behind.
	daemon := strings.TrimSuffix(filepath.Base(path), ".pid")
	if err := os.RemoveAll(fmt.Sprintf("/var/tmp/frr/%s.%d", daemon, pid)); err != nil {
		t.Error(err)
	}
}

func (f frr) command(t testing.TB, lines ...string) string {
	t.Helper()
	args := []string{"-N", f.instance}
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

type bird struct{ control, log string }

// startBIRD logs every change of a BFD session, since it counts none.
func startBIRD(t testing.TB, ns netns.NS, dir string, interval time.Duration, wrapper ...string) bird {
	t.Helper()
	b := bird{control: filepath.Join(dir, "bird.ctl"), log: filepath.Join(dir, "bird.log")}
	conf := filepath.Join(dir, "bird.conf")
	text := fmt.Sprintf(`log "%s" all;
router id 192.0.2.2;
protocol device {}
protocol bfd {
	debug { events, states };
	interface "eth0" { interval %d ms; multiplier 3; };
	neighbor 10.2.0.1 dev "eth0" local 10.2.0.0;
	neighbor fd00:2::1 dev "eth0" local fd00:2::a;
	neighbor fe80::1 dev "eth0" local fe80::a;
}
`, b.log, interval.Milliseconds())
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	argv := append(wrapper, "/usr/sbin/bird", "-f", "-c", conf, "-s", b.control)
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(b.log)
			t.Logf("BIRD:\n%s", text)
		}
	})
	eventually(t, 10*time.Second, func() error {
		_, err := exec.Command("birdc", "-s", b.control, "show status").Output()
		return err
	})
	return b
}

// states are those of BIRD's sessions by the peer's address.
func (b bird) states(t testing.TB) map[string]string {
	t.Helper()
	out, err := exec.Command("birdc", "-r", "-s", b.control, "show bfd sessions").Output()
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
