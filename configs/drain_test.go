package configs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const drainUnit = "systemd/hostfabric-drain.service"

// drainStop is what the unit runs when it is stopped, as a shell has it.
func drainStop(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ExecStop=/bin/sh -c '(.*)'$`).FindStringSubmatch(read(t, drainUnit))
	if m == nil {
		t.Fatal("no ExecStop as expected")
	}
	return strings.ReplaceAll(m[1], "$$", "$")
}

func TestDrainUnitIsValid(t *testing.T) {
	paths := units(t)
	binary := filepath.Join(filepath.Dir(paths[0]), "hostfabric")
	path := write(t, filepath.Dir(paths[0]), "hostfabric-drain.service", strings.ReplaceAll(read(t, drainUnit), "/usr/bin/hostfabric", binary))
	if out, err := exec.Command("systemd-analyze", append([]string{"verify", path}, paths...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", path).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDrainUnitStopsFirst: at shutdown units stop in the reverse of the order they start in, so what the drain needs, and
// whose traffic it waits for, must be started before it.
func TestDrainUnitStopsFirst(t *testing.T) {
	text := read(t, drainUnit)
	var after []string
	for _, m := range regexp.MustCompile(`(?m)^After=(.*)$`).FindAllStringSubmatch(text, -1) {
		after = append(after, strings.Fields(m[1])...)
	}
	for _, unit := range []string{"network.target", "hostfabric.service", "hostfabric-speaker.service", "containerd.service", "docker.service", "kubelet.service", "crio.service"} {
		if !slices.Contains(after, unit) {
			t.Errorf("it does not stop before %s", unit)
		}
	}
	if found := regexp.MustCompile(`(?m)^(Requires|Requisite|BindsTo|PartOf|Conflicts|PropagatesStopTo|StopPropagatedFrom|Wants|Upholds)=`).FindString(text); found != "" {
		t.Errorf("%s would carry a restart of one unit to another", found)
	}
}

// TestDrainUnitDrainsAtShutdownOnly runs what the unit runs, with a systemctl that says how the system is.
func TestDrainUnitDrainsAtShutdownOnly(t *testing.T) {
	stop := drainStop(t)
	for state, drains := range map[string]bool{"stopping": true, "running": false, "degraded": false, "maintenance": false, "starting": false} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"systemctl":  "#!/bin/sh\necho " + state + "\n[ " + state + " = running ]\n", // whose exit status says the same
			"hostfabric": "#!/bin/sh\nprintf '%s,' \"$@\"\n",
		} {
			if err := os.Chmod(write(t, dir, name, text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("/bin/sh", "-c", strings.ReplaceAll(stop, "/usr/bin/hostfabric", filepath.Join(dir, "hostfabric")))
		cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		want := ""
		if drains {
			want = "drain,--until-boot,--deadline,5s,--reason,host shutdown,"
		}
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, %q, want %q", state, err, out, want)
		}
	}
}

// TestDrainUnitRunsWhatThereIs asks the program itself whether it understands the command line.
func TestDrainUnitRunsWhatThereIs(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "hostfabric")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/hostfabric").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, command, _ := strings.Cut(drainStop(t), "exec /usr/bin/hostfabric ")
	if out, err := exec.Command("/bin/sh", "-c", binary+" "+command+" --help").CombinedOutput(); err != nil || !strings.Contains(string(out), "Take this host out of the fabric") {
		t.Errorf("%v\n%s", err, out)
	}
}
