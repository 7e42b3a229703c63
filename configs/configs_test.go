// Package configs_test holds the shipped files to what the programs that read them say.
package configs_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/configs/configtest"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExampleLoads(t *testing.T) {
	t.Setenv("HOSTFABRIC_HOST", "r1h1")
	c, err := config.Load("hostfabric.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Peers) != 2 || len(c.Blocks) != 2 || c.Source != config.SourceStatic || c.Peers[0].Name != "tor1" {
		t.Errorf("unexpected: %+v", c)
	}
}

var (
	option = regexp.MustCompile(`(?m)^#( *(?:- |[a-z_0-9]+:).*)$`)
	sample = regexp.MustCompile(`# example`)
)

// TestExampleIsTrue uncomments every option ("#key: value", without a space): all keys are there, and the defaults
// are those of the program.
func TestExampleIsTrue(t *testing.T) {
	t.Setenv("HOSTFABRIC_HOST", "r1h1")
	text := read(t, "hostfabric.yaml")
	var all, defaults []string
	const none = -1
	example := none // how far the line is indented that what follows belongs to
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		bare := option.ReplaceAllString(line, "$1")
		all = append(all, bare)
		// What an example heads, and what is indented below it, is no default.
		indent := len(bare) - len(strings.TrimLeft(bare, " "))
		if indent <= example {
			example = none
		}
		if sample.MatchString(line) && example == none {
			example = indent
		}
		if example == none {
			defaults = append(defaults, bare)
		}
	}
	dir := t.TempDir()
	if _, err := config.Load(write(t, dir, "all.yaml", strings.Join(all, "\n")), nil); err != nil {
		t.Errorf("with every option: %v", err)
	}
	want, err := config.Load("hostfabric.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(write(t, dir, "defaults.yaml", strings.Join(defaults, "\n")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("what the file calls defaults is not, -program +file:\n%s", diff)
	}
	for key := range config.Keys() {
		leaf := key[strings.LastIndexByte(key, '.')+1:]
		if !slices.ContainsFunc(all, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), leaf+":") }) {
			t.Errorf("%s is not mentioned", key)
		}
	}
}

func TestConflists(t *testing.T) {
	files, err := filepath.Glob("cni/*.conflist")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	ours := []string{"type", "capabilities", "socket", "spool", "timeout", "mtu", "pool", "family", "labels"}
	for _, path := range files {
		var list struct {
			CNIVersion  string           `json:"cniVersion"`
			CNIVersions []string         `json:"cniVersions"`
			Name        string           `json:"name"`
			Plugins     []map[string]any `json:"plugins"`
		}
		dec := json.NewDecoder(strings.NewReader(read(t, path)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&list); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		// 1.0.0 is the newest that Debian's plugins and containerd 1.6 speak; libcni 1.3 and later choose from the list.
		if list.CNIVersion != "1.0.0" || !slices.Equal(list.CNIVersions, []string{"1.0.0", "1.1.0"}) || list.Name != "hostfabric" || len(list.Plugins) == 0 || list.Plugins[0]["type"] != "hostfabric-cni" {
			t.Errorf("%s: %+v", path, list)
			continue
		}
		for key := range list.Plugins[0] {
			if !slices.Contains(ours, key) {
				t.Errorf("%s: hostfabric-cni has no key %s", path, key)
			}
		}
	}
}

func TestRouters(t *testing.T) {
	for _, path := range []string{"tor/frr.conf", "tor/cumulus-sonic.conf"} {
		t.Run(path, func(t *testing.T) { configtest.FRR(t, path) })
	}
	if out, err := exec.Command("bird", "-p", "-c", "tor/bird.conf").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("bird -p: %v\n%s", err, out)
	}
}

// TestRoutersAgree holds the four files to one plan: what differs is only how a router says it.
func TestRoutersAgree(t *testing.T) {
	for path, words := range map[string][]string{
		"tor/frr.conf":           {"router bgp 4200000001", "10.64.0.0/12 ge 20 le 28", "fd00:64::/48 ge 56 le 64", "graceful-restart-helper", "maximum-prefix 4", "timers 3 9", "maximum-paths 64", "neighbor HOSTS bfd"},
		"tor/cumulus-sonic.conf": {"router bgp 4200000001", "10.64.0.0/12 ge 20 le 28", "fd00:64::/48 ge 56 le 64", "graceful-restart-helper", "maximum-prefix 4", "timers 3 9", "maximum-paths 64", "neighbor HOSTS bfd"},
		"tor/eos.cfg":            {"router bgp 4200000001", "10.64.0.0/12 ge 20 le 28", "fd00:64::/48 ge 56 le 64", "graceful-restart-helper", "maximum-routes 8", "timers 3 9", "maximum-paths 64", "neighbor HOSTS bfd"},
		"tor/bird.conf":          {"TOR_AS = 4200000001", "10.64.0.0/12{20,28}", "fd00:64::/48{56,64}", "graceful restart aware", "import limit 4", "hold time 9", "limit 64", "bfd graceful", "error wait time 1, 2", "(65535, 0) ~ bgp_community"},
	} {
		text := read(t, path)
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s has no %q", path, w)
			}
		}
	}
}

// units copies the units to where systemd-analyze finds the command they start.
func units(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	binary := write(t, dir, "hostfabric", "#!/bin/sh\n")
	if err := os.Chmod(binary, 0o755); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, name := range []string{"hostfabric.service", "hostfabric-speaker.service", "hostfabric-bfd.service"} {
		text := read(t, filepath.Join("systemd", name))
		if !strings.Contains(text, "ExecStart=/usr/bin/hostfabric ") {
			t.Errorf("%s does not start /usr/bin/hostfabric", name)
		}
		paths = append(paths, write(t, dir, name, strings.ReplaceAll(text, "/usr/bin/hostfabric", binary)))
	}
	return paths
}

func TestUnitsAreValid(t *testing.T) {
	out, err := exec.Command("systemd-analyze", append([]string{"verify"}, units(t)...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestUnitsStartWhatThereIs asks the program itself whether it understands the command lines.
func TestUnitsStartWhatThereIs(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "hostfabric")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/hostfabric").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/hostfabric (.*)$`)
	for _, name := range []string{"hostfabric.service", "hostfabric-speaker.service", "hostfabric-bfd.service"} {
		args := strings.Fields(start.FindStringSubmatch(read(t, filepath.Join("systemd", name)))[1])
		if out, err := exec.Command(binary, append(args, "--help")...).CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
}

// TestUnitsAreConfined holds systemd's own score, in tenths, of 100 for no confinement at all. The agent's
// capabilities and its sight of the host's namespaces are most of what is left of its own.
func TestUnitsAreConfined(t *testing.T) {
	for i, threshold := range []string{"34", "15", "18"} {
		path := units(t)[i]
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+threshold, path).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(path), err, out)
		}
	}
}

// TestSandboxDropIn reads the unit as systemd does with the drop-in: the later lines add to the lists of the earlier ones.
func TestSandboxDropIn(t *testing.T) {
	dropIn := read(t, "systemd/hostfabric.service.d/sandboxes.conf")
	path := units(t)[0]
	unit, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, service, _ := strings.Cut(dropIn, "[Service]\n")
	merged := strings.Replace(string(unit), "\n[Install]", service+"\n[Install]", 1)
	if err := os.WriteFile(path, []byte(merged), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=37", path).CombinedOutput()
	if err != nil {
		t.Errorf("the unit with the drop-in: %v\n%s", err, out)
	}
	for _, has := range []string{"CAP_SYS_CHROOT", "@mount is included", "may create file system namespaces"} {
		if !strings.Contains(string(out), has) {
			t.Errorf("with the drop-in systemd does not say %q:\n%s", has, out)
		}
	}
}

// TestUnitsOutliveOneAnother: no dependency that would carry a stop or restart from one to the other.
func TestUnitsOutliveOneAnother(t *testing.T) {
	binding := regexp.MustCompile(`(?m)^(Requires|Requisite|BindsTo|PartOf|Conflicts|PropagatesStopTo|StopPropagatedFrom|Upholds)=`)
	for _, name := range []string{"hostfabric.service", "hostfabric-speaker.service", "hostfabric-bfd.service"} {
		if found := binding.FindString(read(t, filepath.Join("systemd", name))); found != "" {
			t.Errorf("%s has %s", name, found)
		}
	}
	if !strings.Contains(read(t, "systemd/hostfabric.service"), "\nWants=hostfabric-speaker.service hostfabric-bfd.service\n") {
		t.Error("the agent does not pull speaker and BFD in")
	}
}

func TestSystemUsers(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Abs("systemd/sysusers.d/hostfabric.conf")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-sysusers", "--root="+root, config).CombinedOutput(); err != nil {
		t.Fatalf("systemd-sysusers: %v\n%s", err, out)
	}
	speaker := regexp.MustCompile(`(?m)^hostfabric-speaker:x:(\d+):$`).FindStringSubmatch(read(t, filepath.Join(root, "etc/group")))
	user := regexp.MustCompile(`(?m)^hostfabric:x:\d+:(\d+):`).FindStringSubmatch(read(t, filepath.Join(root, "etc/passwd")))
	if speaker == nil || user == nil || speaker[1] != user[1] {
		t.Errorf("user hostfabric must be of group hostfabric-speaker: %v, %v", user, speaker)
	}
}

func TestDirectories(t *testing.T) {
	config, err := filepath.Abs("systemd/tmpfiles.d/hostfabric.conf")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	users := strings.NewReplacer("hostfabric hostfabric-speaker", "root root").Replace(read(t, config))
	path := write(t, t.TempDir(), "hostfabric.conf", users)
	if out, err := exec.Command("systemd-tmpfiles", "--create", "--root="+root, path).CombinedOutput(); err != nil {
		t.Fatalf("systemd-tmpfiles: %v\n%s", err, out)
	}
	for dir, mode := range map[string]os.FileMode{"run/hostfabric": 0o755, "run/hostfabric/speaker": 0o700, "run/hostfabric/bfd": 0o700, "var/lib/hostfabric": 0o700} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
}

func TestSysctlsExist(t *testing.T) {
	setting := regexp.MustCompile(`(?m)^([a-z0-9_.]+) = \d+$`)
	found := setting.FindAllStringSubmatch(read(t, "sysctl.d/90-hostfabric.conf"), -1)
	if len(found) != 4 {
		t.Errorf("%d settings", len(found))
	}
	for _, s := range found {
		if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(s[1], ".", "/")); err != nil {
			t.Error(err)
		}
	}
}

func TestProtocolName(t *testing.T) {
	if !regexp.MustCompile(`(?m)^176\thostfabric$`).MatchString(read(t, "rt_protos.d/hostfabric.conf")) {
		t.Error("176 has no name")
	}
}
