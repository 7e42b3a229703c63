package tor

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// TestUnnumberedConfigurations has the real programs check what is written for a neighbour without an address.
func TestUnnumberedConfigurations(t *testing.T) {
	n := sample("", netns.NS{})
	n.Neighbors[1].Unnumbered = true
	for name, tt := range map[string]struct {
		tmpl  *template.Template
		check []string
		words []string
	}{
		"bgpd.conf": {bgpdConf, []string{filepath.Join(frrDir, "bgpd"), "-C", "-f"},
			[]string{"neighbor h1 interface v6only remote-as 4200001001", "neighbor h1 passive", "  neighbor h1 activate", "neighbor 172.31.0.0 remote-as 64512"}},
		"bird.conf": {birdConf, []string{"/usr/sbin/bird", "-p", "-c"},
			[]string{"neighbor range fe80::/10 as 4200001001;", `interface "h1"`, "extended next hop on", "protocol bgp spine from peer { neighbor 172.31.0.0"}},
	} {
		var got bytes.Buffer
		if err := tt.tmpl.Execute(&got, n); err != nil {
			t.Fatal(err)
		}
		for _, w := range tt.words {
			if !strings.Contains(got.String(), w) {
				t.Errorf("%s has no %q:\n%s", name, w, &got)
			}
		}
		if strings.Contains(got.String(), "172.31.0.5") {
			t.Errorf("%s has the neighbour's address:\n%s", name, &got)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(tt.check[0], append(tt.check[1:], file)...).CombinedOutput(); err != nil {
			t.Errorf("%v refuses it: %v\n%s", tt.check, err, out)
		}
	}
	got, err := parseBirdProtocols("range_r1h1 BGP --- start\n  BGP state:          Passive\nr1h1_1 BGP --- up\n  BGP state:          Established\n")
	if err != nil || len(got) != 1 || !got[0].established {
		t.Errorf("%+v, %v", got, err)
	}
}
