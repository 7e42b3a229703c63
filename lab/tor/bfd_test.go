package tor

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"text/template"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hostfabric/hostfabric/lab/netns"
)

// TestConfigurationsWithBFD is TestConfigurations for a router one of whose neighbours is watched.
func TestConfigurationsWithBFD(t *testing.T) {
	n := sample("", netns.NS{})
	n.Neighbors[1].BFD = &BFD{Interval: 100 * time.Millisecond, Multiplier: 3, Graceful: true}
	for name, c := range map[string]struct {
		tmpl  *template.Template
		check []string
	}{
		"bird.conf": {birdConf, []string{"/usr/sbin/bird", "-p", "-c"}},
		"bgpd.conf": {bgpdConf, []string{filepath.Join(frrDir, "bgpd"), "-C", "-f"}},
		"bfdd.conf": {bfddConf, []string{filepath.Join(frrDir, "bfdd"), "-C", "-f"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := c.tmpl.Execute(&got, n); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "bfd", name)
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			abs, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			argv := append(c.check, abs)
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v refuses it: %v\n%s", argv, err, out)
			}
		})
	}
}
