package fabric

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// traces are what is on the machine of a lab: what is left when it is down is a leak. Other tests run at the same time, so
// only what can be told to be this lab's is listed: by name, by path, and processes by their mark.
func traces(t *testing.T, s Shape) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	glob := func(pattern string) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			found["file "+p] = true
		}
	}
	glob(netns.Dir + "/" + s.Name + "-*")
	glob(s.Dir)
	glob(s.StateDir() + "/*")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/"+s.Name+"-") || strings.Contains(line, s.Dir) {
			found["mount "+line] = true
		}
	}
	procs, err := daemon.Find(daemon.WithEnv(s.mark()[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		found[fmt.Sprintf("process %s %d", p.Command, p.PID)] = true
		if _, err := os.Stat(fmt.Sprintf("/var/tmp/frr/%s.%d", p.Command, p.PID)); err == nil {
			found[fmt.Sprintf("buffers of process %d", p.PID)] = true
		}
	}
	return found
}

// machine counts what belongs to nobody in particular in the namespace of the test.
func machine(t *testing.T) map[string]int {
	t.Helper()
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]int{"links": len(links), "open files": len(fds)}
}

func wantNoTraces(t *testing.T, s Shape) {
	t.Helper()
	if left := traces(t, s); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(slices.Sorted(maps.Keys(left)), "\n"))
	}
}

func TestDownLeavesNothing(t *testing.T) {
	for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
		t.Run(string(kind), func(t *testing.T) {
			s := testShape(t, kind)
			before := machine(t)
			wantNoTraces(t, s)
			lab := testUp(t, Options{Shape: s})
			startHosts(t, lab)
			if found := traces(t, s); len(found) < 10 {
				t.Errorf("a running lab has few traces: %v", found)
			}
			if _, err := Up(context.Background(), Options{Shape: s}, nil); err == nil || !strings.Contains(err.Error(), "exists already") {
				t.Errorf("a second Up: %v, want that the lab exists", err)
			}
			if err := lab.Tor("r1t1").Kill(); err != nil { // killed daemons leave what others clear
				t.Error(err)
			}
			if lab.Tor("r1t1").Alive() {
				t.Error("r1t1 is alive after Kill")
			}
			for range 2 { // the second has nothing to do
				if err := Down(context.Background(), s); err != nil {
					t.Fatal(err)
				}
				wantNoTraces(t, s)
			}
			if diff := cmp.Diff(before, machine(t)); diff != "" {
				t.Errorf("machine (-before +after):\n%s", diff)
			}
			if _, err := Open(s); !errors.Is(err, errNoLab) {
				t.Errorf("Open after Down: %v, want %v", err, errNoLab)
			}
		})
	}
}

// TestDownAfterCrash kills the building process with SIGKILL at every step of its work, then removes what it left.
func TestDownAfterCrash(t *testing.T) {
	for _, step := range []string{"namespaces 1/", "namespaces 4/", "namespaces 9/", "cables 1/", "cables 6/", "etcd 0/", "etcd 1/", "routers 1/", "routers 3/", "converged routers 1/"} {
		t.Run(step, func(t *testing.T) {
			s := testShape(t, tor.BIRD)
			if strings.HasPrefix(step, "etcd") {
				s.Source = Etcd
			}
			t.Cleanup(func() {
				if err := Down(context.Background(), s); err != nil {
					t.Error(err)
				}
			})
			cmd, out := startRole(t, nil, "up", Options{Shape: s})
			reached := false
			for sc := bufio.NewScanner(out); !reached && sc.Scan(); {
				reached = strings.HasPrefix(sc.Text(), step)
			}
			if !reached {
				t.Fatalf("the builder never came to %q: %v", step, cmd.Wait())
			}
			if err := Down(context.Background(), s); err == nil || !strings.Contains(err.Error(), "is being built by process") {
				t.Errorf("Down while it is being built: %v, want to be refused", err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
			if len(traces(t, s)) == 0 {
				t.Error("the crash left nothing: it proves nothing")
			}
			if err := Down(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			wantNoTraces(t, s)
		})
	}
}

// TestDownWithoutState removes a lab whose directory is gone.
func TestDownWithoutState(t *testing.T) {
	s := testShape(t, tor.BIRD)
	testUp(t, Options{Shape: s})
	if err := os.RemoveAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	if err := Down(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	wantNoTraces(t, s)
}

// TestDownSparesOthers checks that a lab whose name begins like another's is not touched.
func TestDownSparesOthers(t *testing.T) {
	nstest.RequireRoot(t)
	s := testShape(t, tor.BIRD)
	for _, name := range []string{s.Name + "x-r1h1", s.Name + "-r1h1x", s.Name + "-mine"} {
		ns, err := netns.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := ns.Delete(); err != nil {
				t.Error(err)
			}
		})
		if err := Down(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		if !ns.Exists() {
			t.Errorf("%s is gone", name)
		}
	}
}

// TestUpFails checks that an Up which cannot succeed says why and takes back what it built.
func TestUpFails(t *testing.T) {
	t.Run("agent ends", func(t *testing.T) {
		s := testShape(t, tor.BIRD)
		agent := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(agent, []byte("#!/bin/sh\necho the agent says no\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := Up(context.Background(), Options{Shape: s, Agent: agent}, nil)
		if err == nil || !strings.Contains(err.Error(), "agent") || !strings.Contains(err.Error(), "host r1h") {
			t.Errorf("err = %v, want the host named", err)
		}
		wantNoTraces(t, s)
	})
	t.Run("deadline", func(t *testing.T) {
		s := testShape(t, tor.BIRD)
		agent := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(agent, []byte("#!/bin/sh\necho the agent waits\nexec sleep 300\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := Up(context.Background(), Options{Shape: s, Agent: agent, Timeout: 3 * time.Second}, nil)
		for _, want := range []string{"router r1t1 is not ready: 3s have passed", "of 3 sessions are up", "the agent waits", "router r1t"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("err = %v, want %q in it", err, want)
			}
		}
		wantNoTraces(t, s)
	})
	t.Run("cancelled", func(t *testing.T) {
		s := testShape(t, tor.BIRD)
		ctx, cancel := context.WithCancel(context.Background())
		_, err := Up(ctx, Options{Shape: s}, func(p Progress) {
			if p.Step == "cables" {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v, want cancelled", err)
		}
		wantNoTraces(t, s)
	})
}

// startRole runs the test binary as one of the roles, with credentials of its own if wanted, and returns its output.
func startRole(t *testing.T, prefix []string, role string, arg any) (*exec.Cmd, *os.File) {
	t.Helper()
	raw, err := json.Marshal(arg)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	argv := append(slices.Clone(prefix), publicCopy(t), role, string(raw))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return cmd, r
}

// publicCopy is the test binary where every user may run it.
func publicCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hflabtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "hostfabric-lab")
	if err := os.WriteFile(path, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
