package fabric

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/tor"
)

var asNobody = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"}

// TestUnprivileged builds and removes labs without root, in every kind of namespaces a user may come from. The
// machine's own /run must not see any of it.
func TestUnprivileged(t *testing.T) {
	tests := []struct {
		name   string
		prefix []string
	}{
		{"plain user", nil},
		{"unshare -Urnm", []string{"unshare", "-Urnm", "--"}},
		{"unshare -Urn", []string{"unshare", "-Urn", "--"}},
		{"unshare -Ur", []string{"unshare", "-Ur", "--"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := testShape(t, tor.BIRD)
			s.Dir = DefaultDir
			s.Containers = 1
			arg, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			opts, err := json.Marshal(Options{Shape: s})
			if err != nil {
				t.Fatal(err)
			}
			self := publicCopy(t)
			script := `self=$1; "$self" up "$2" && "$self" down "$3"`
			argv := append(append(append([]string{}, asNobody...), tt.prefix...), "sh", "-c", script, "sh", self, string(opts), string(arg))
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Dir = "/"
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range []string{"node spine running=true up=2", "node r1t1 running=true up=1", fmt.Sprintf("found %s with 1 racks", s.Name)} {
				if !strings.Contains(string(out), want) {
					t.Errorf("output lacks %q:\n%s", want, out)
				}
			}
			if left := procsOf(t, s); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := os.Stat(s.StateDir()); err == nil {
				t.Errorf("%s is on the real /run", s.StateDir())
			}
		})
	}
}

func procsOf(t *testing.T, s Shape) []daemon.Process {
	t.Helper()
	procs, err := daemon.Find(daemon.WithEnv(s.mark()[0]))
	if err != nil {
		t.Fatal(err)
	}
	return procs
}

// TestUnprivilegedFRR checks that what cannot work says so.
func TestUnprivilegedFRR(t *testing.T) {
	s := testShape(t, tor.FRR)
	s.Dir = DefaultDir
	cmd, out := startRole(t, asNobody, "up", Options{Shape: s})
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(string(text), "FRR insists on changing to its own user") {
		t.Errorf("%v: %s", err, text)
	}
}

// TestUnprivilegedRefused checks the error where the kernel gives users no namespaces.
func TestUnprivilegedRefused(t *testing.T) {
	s := testShape(t, tor.BIRD)
	// A user namespace in which no further ones are allowed stands in for such a kernel.
	prefix := []string{"unshare", "--user", "--map-root-user", "--", "sh", "-c", `echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all --securebits=+noroot,+noroot_locked -- "$@"`, "sh"}
	cmd, out := startRole(t, append(append([]string{}, asNobody...), prefix...), "up", Options{Shape: s})
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(string(text), "this kernel refuses them to user") {
		t.Errorf("%v: %s", err, text)
	}
}
