// Package tortest runs FRR and BIRD in a namespace for as long as a test, with configurations that the test writes itself.
package tortest

import (
	"errors"
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
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// FRR is an instance of FRR's daemons, by its name (-N).
type FRR struct{ Instance string }

// Run is where the daemons keep PID files and logs.
func (f FRR) Run() string { return filepath.Join("/var/run/frr", f.Instance) }

// StartFRR runs zebra and another daemon, bgpd or bfdd, and loads the configuration. wrapper is a command that runs a command; none
// runs them as they are.
func StartFRR(t testing.TB, ns netns.NS, daemon, conf string, wrapper ...string) FRR {
	t.Helper()
	f := FRR{Instance: fmt.Sprintf("test-%s-%d-%d", daemon, os.Getpid(), time.Now().UnixNano()%1e6)}
	etc := filepath.Join("/etc/frr", f.Instance)
	u, err := user.Lookup("frr")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	for _, d := range []string{etc, f.Run()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(d) })
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"frr.conf": conf, "vtysh.conf": ""} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	own := map[string][]string{"bgpd": {"-p", "179"}, "bfdd": {"--bfdctl", filepath.Join(f.Run(), "bfdd.sock")}}
	for _, d := range []string{"zebra", daemon} {
		argv := append([]string{}, wrapper...)
		argv = append(argv, "/usr/lib/frr/"+d, "-N", f.Instance, "-d", "-P", "0", "-A", "127.0.0.1", "--log", "file:"+filepath.Join(f.Run(), d+".log"))
		argv = append(argv, own[d]...)
		if out, err := ns.Output(t.Context(), argv[0], argv[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", d, err, out)
		}
		t.Cleanup(func() { KillPIDFile(t, filepath.Join(f.Run(), d+".pid")) })
	}
	if out, err := exec.Command("vtysh", "-N", f.Instance, "-b").CombinedOutput(); err != nil {
		t.Fatalf("vtysh -b: %v\n%s", err, out)
	}
	return f
}

// KillPIDFile kills the process that a PID file names.
func KillPIDFile(t testing.TB, path string) {
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
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) { // a test may have killed it
		t.Error(err)
	}
	// FRR buffers its logs there and a killed daemon leaves its folder behind.
	daemon := strings.TrimSuffix(filepath.Base(path), ".pid")
	if err := os.RemoveAll(fmt.Sprintf("/var/tmp/frr/%s.%d", daemon, pid)); err != nil {
		t.Error(err)
	}
}

// BIRD is a running BIRD, by its control socket. Its configuration, bird.conf, and b.pid are beside that.
type BIRD struct{ Control string }

// StartBIRD runs BIRD with its files in dir. wrapper is as for StartFRR.
func StartBIRD(t testing.TB, ns netns.NS, dir, conf string, wrapper ...string) BIRD {
	t.Helper()
	b := BIRD{Control: filepath.Join(dir, "b.ctl")}
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	argv := append([]string{}, wrapper...)
	argv = append(argv, "/usr/sbin/bird", "-f", "-c", file, "-s", b.Control, "-P", filepath.Join(dir, "b.pid"))
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		_ = cmd.Wait() // says that it was killed
	})
	nstest.Eventually(t, 10*time.Second, func() error {
		_, err := exec.Command("/usr/sbin/birdc", "-s", b.Control, "show", "status").Output()
		return err
	})
	return b
}
