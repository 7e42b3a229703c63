package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const goodConfig = `asn: 4200000101
router_id: 192.0.2.1
peers:
  - {address: 192.0.2.10, asn: 4200000001}
blocks: [10.64.0.0/26]
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostfabric.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestValidate: the exit code of main is 1 exactly when there is an error.
func TestValidate(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	for _, tc := range []struct {
		name   string
		file   string // text; empty names a file that does not exist
		args   []string
		env    map[string]string
		stdout string   // end of it, where the file is good
		errs   []string // each in the error, where it is not
	}{
		{name: "good", file: goodConfig, stdout: "is valid: AS 4200000101, 1 peer, 1 block\n"},
		{name: "etcd", file: strings.Replace(goodConfig, "blocks: [10.64.0.0/26]", "source: etcd\netcd: {endpoints: [http://192.0.2.9:2379]}\nfabric: [10.64.0.0/12]", 1),
			stdout: "is valid: AS 4200000101, 1 peer, blocks from 1 pool in etcd\n"},
		{name: "flag before file", file: goodConfig, args: []string{"--asn", "65000"}, stdout: "is valid: AS 65000, 1 peer, 1 block\n"},
		{name: "environment before file", file: goodConfig, env: map[string]string{"HOSTFABRIC_ASN": "65001"}, stdout: "is valid: AS 65001, 1 peer, 1 block\n"},
		{name: "every mistake at once",
			file: "asn: 0\npeers: [{address: 192.0.2.10, asn: 65001}, {address: 192.0.2.10, asn: 65001}]\nblocks: [10.64.0.0/26, 10.64.0.32/27]\nmut: 1500\n",
			errs: []string{"4 mistakes:", "\nasn: ", "\npeers[1].address: ", "\nblocks[1]: 10.64.0.32/27 overlaps", "\nmut: line 4: unknown key (did you mean mtu?)"}},
		{name: "bad flag value", file: goodConfig, args: []string{"--log-level", "loud"}, errs: []string{"1 mistake:", "log.level"}},
		{name: "broken YAML", file: "asn: [\n", errs: []string{"hostfabric.yaml: line"}},
		{name: "no file", errs: []string{missing, "--config"}},
		{name: "argument", file: goodConfig, args: []string{"extra"}, errs: []string{`unknown command "extra"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			path := missing
			if tc.file != "" {
				path = writeConfig(t, tc.file)
			}
			stdout, err := execute(t, append([]string{"validate", "-c", path}, tc.args...)...)
			if len(tc.errs) == 0 && (err != nil || stdout != path+" "+tc.stdout) {
				t.Errorf("prints %q, error %v; want %q", stdout, err, path+" "+tc.stdout)
			}
			for _, want := range tc.errs {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error is %v, want %q in it", err, want)
				}
			}
			if len(tc.errs) > 0 && stdout != "" {
				t.Errorf("an error, but %q on stdout", stdout)
			}
		})
	}
}

func TestProcessesNeedAConfig(t *testing.T) {
	bad := writeConfig(t, "asn: 0\n")
	for _, args := range [][]string{{"agent", "-c", bad}, {"speaker", "-c", bad}} {
		if _, err := execute(t, args...); err == nil || !strings.Contains(err.Error(), "asn: ") {
			t.Errorf("%s: %v, want the mistake named", args[0], err)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, format := range []string{"table", "json", "yaml"} {
		out, err := execute(t, "version", "-o", format)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		switch format {
		case "json":
			err = json.Unmarshal([]byte(out), &got)
		case "yaml":
			err = yaml.UnmarshalStrict([]byte(out), &got)
		default:
			for line := range strings.Lines(out) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				got[strings.Replace(key, "hostfabric", "version", 1)] = strings.TrimSpace(value)
			}
		}
		if err != nil || len(got) != 3 || got["version"] != version || got["go"] != runtime.Version() || got["gobgp"] == "" {
			t.Errorf("-o %s: %v: %q", format, err, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, err := execute(t, "completion", shell); err != nil || !strings.Contains(out, "hostfabric") {
			t.Errorf("completion %s: %d bytes, %v", shell, len(out), err)
		}
	}
	// What the script asks the binary for.
	out, err := execute(t, "__complete", "")
	for _, command := range []string{"agent", "attach", "blocks", "completion", "detach", "leases", "peers", "routes", "speaker", "status", "validate", "version"} {
		if err != nil || !strings.Contains(out, command+"\t") {
			t.Errorf("completion does not offer %s: %v", command, err)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "-o", "xml"}, `"xml" is not one of table, json, yaml`},
		{[]string{"version", "-o", ""}, `"" is not one of table, json, yaml`},
		{[]string{"nonsense"}, `unknown command "nonsense"`},
		{[]string{"attach", "only-an-id"}, "want CONTAINER-ID NETNS-PATH, got 1 argument"},
		{[]string{"attach", "id", "/run/netns/x", "--mtu=-1"}, `invalid argument "-1" for "--mtu"`},
		{[]string{"detach"}, "want CONTAINER-ID, got 0 arguments"},
		{[]string{"peers", "--colour"}, "unknown flag: --colour"},
	} {
		if out, err := execute(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) || out != "" {
			t.Errorf("%q: %v, prints %q; want %q and no output", tc.args, err, out, tc.want)
		}
	}
}
