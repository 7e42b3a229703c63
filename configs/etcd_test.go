package configs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/ipam"
)

// etcdFiles puts what the example names beside it: one certificate that is its own authority.
func etcdFiles(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "r1h1"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	write(t, dir, "etcd-ca.pem", certPEM)
	write(t, dir, "host.pem", certPEM)
	for _, path := range []string{
		write(t, dir, "host-key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))),
		write(t, dir, "etcd-password", "s3cret\n"),
	} {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEtcdExampleLoads as it is, and with the credentials that are commented out.
func TestEtcdExampleLoads(t *testing.T) {
	t.Setenv("HOSTFABRIC_HOST", "r1h1")
	text := read(t, "hostfabric-etcd.yaml")
	dir := t.TempDir()
	etcdFiles(t, dir)
	c, err := config.Load(write(t, dir, "hostfabric.yaml", text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Source != config.SourceEtcd || len(c.Blocks) != 0 || len(c.Etcd.Endpoints) != 3 || len(c.Pools) != 2 || c.Pools[1].BaseIPv4 != 26 {
		t.Errorf("unexpected: %+v", c)
	}
	if tls := c.Etcd.TLS; tls == nil || tls.RootCAs == nil || len(tls.Certificates) != 1 {
		t.Errorf("TLS: %+v", tls)
	}

	credentials := regexp.MustCompile(`(?m)^# ((?:username|password_file):)`)
	if n := len(credentials.FindAllString(text, -1)); n != 2 {
		t.Errorf("%d credentials", n)
	}
	c, err = config.Load(write(t, dir, "users.yaml", credentials.ReplaceAllString(text, "  $1")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Etcd.Username != "host1" || string(c.Etcd.Password) != "s3cret" {
		t.Errorf("user %q, password %q", c.Etcd.Username, string(c.Etcd.Password))
	}
}

// TestSwitchToEtcd carries out the diff of the README on the static example.
func TestSwitchToEtcd(t *testing.T) {
	t.Setenv("HOSTFABRIC_HOST", "r1h1")
	_, diff, found := strings.Cut(read(t, "README.md"), "```diff\n")
	diff, _, closed := strings.Cut(diff, "```")
	var context, added strings.Builder
	for line := range strings.Lines(diff) {
		if after, ok := strings.CutPrefix(line, "+"); ok {
			added.WriteString(after)
		} else {
			context.WriteString(strings.TrimPrefix(line, " "))
		}
	}
	if !found || !closed || strings.Count(added.String(), "\n") != 2 {
		t.Fatalf("not a diff that adds two lines: %s", diff)
	}
	comments := regexp.MustCompile(`(?m) +#.*$`)
	text := comments.ReplaceAllString(read(t, "hostfabric.yaml"), "")
	if !strings.Contains(text, context.String()) {
		t.Fatalf("the static example does not have the lines around the change:\n%s", context.String())
	}
	before, err := config.Load("hostfabric.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	after, err := config.Load(write(t, t.TempDir(), "hostfabric.yaml", strings.Replace(text, context.String(), context.String()+added.String(), 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if after.Source != config.SourceEtcd || after.Etcd.TLS == nil || !slices.Equal(after.Blocks, before.Blocks) {
		t.Errorf("unexpected: %+v", after)
	}
	want := []ipam.Pool{{Name: "default", Prefixes: before.Fabric, BaseIPv4: 26, BaseIPv6: 64}}
	if diff := cmp.Diff(want, after.Pools, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("pools, -want +got:\n%s", diff)
	}
}

// TestEveryConfigurationIsTested: an example that no test loads would grow old.
func TestEveryConfigurationIsTested(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || !slices.Equal(files, []string{"hostfabric-etcd.yaml", "hostfabric.yaml"}) {
		t.Errorf("%v, %v", files, err)
	}
	readme := read(t, "README.md")
	for _, f := range files {
		if !strings.Contains(readme, "`"+f+"`") {
			t.Errorf("README.md does not name %s", f)
		}
	}
}
