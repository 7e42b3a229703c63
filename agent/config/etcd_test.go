package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEtcdMistakes(t *testing.T) {
	etcd := func(section string) string {
		return small + "source: etcd\nfabric: [10.64.0.0/12, 'fd00:64::/48']\netcd: {" + section + "}\n"
	}
	one := func(endpoint string) string { return etcd("endpoints: ['" + endpoint + "']") }
	const good = "endpoints: ['http://127.0.0.1:2379'], "
	const sample = " (such as https://192.0.2.1:2379 or unix:///run/etcd.sock)"
	for _, tc := range []struct{ name, file, want string }{
		{"source", small + "source: consul\n", `source: "consul" is not one of static, etcd`},
		{"no section", small + "source: etcd\nfabric: [10.64.0.0/12, 'fd00:64::/48']\n", "etcd.endpoints: missing (the members of etcd, such as [https://192.0.2.1:2379])"},
		{"no endpoints", etcd("endpoints: []"), "etcd.endpoints: missing (the members of etcd, such as [https://192.0.2.1:2379])"},
		{"one endpoint", etcd("endpoints: 'https://192.0.2.1:2379'"), "etcd.endpoints: this is a single value, not a list (write endpoints: [...])"},
		{"unknown key", etcd(good + "cafile: x"), "etcd.cafile: line 10: unknown key (did you mean etcd.ca_file?)"},
		{"duplicate key", etcd(good + "prefix: /a, prefix: /b"), "etcd.prefix: line 10: already set on line 10 (keep one of the two)"},

		{"no scheme", one("192.0.2.1:2379"), `etcd.endpoints[0]: "192.0.2.1:2379" is not an endpoint of etcd` + sample},
		{"name without scheme", one("etcd1:2379"), `etcd.endpoints[0]: "etcd1:2379" is not an endpoint of etcd` + sample},
		{"other scheme", one("ftp://192.0.2.1:2379"), `etcd.endpoints[0]: "ftp://192.0.2.1:2379" is not an endpoint of etcd` + sample},
		{"no port", one("https://192.0.2.1"), `etcd.endpoints[0]: "https://192.0.2.1" has no port (etcd's is 2379)`},
		{"port", one("https://192.0.2.1:99999"), `etcd.endpoints[0]: "https://192.0.2.1:99999" is not an endpoint of etcd` + sample},
		{"no host", one("https://:2379"), `etcd.endpoints[0]: "https://:2379" is not an endpoint of etcd` + sample},
		{"odd host", one("https://a_b:2379"), `etcd.endpoints[0]: "https://a_b:2379" is not an endpoint of etcd` + sample},
		{"path", one("https://192.0.2.1:2379/v3"), `etcd.endpoints[0]: "https://192.0.2.1:2379/v3" is not an endpoint of etcd` + sample},
		{"password in it", one("https://u:s3cret@192.0.2.1:2379"), "etcd.endpoints[0]: there is a user in the address (write etcd.username and etcd.password_file)"},
		{"relative socket", one("unix://run/etcd.sock"), `etcd.endpoints[0]: "run/etcd.sock" is not an absolute path (begin with /)`},
		{"twice", etcd("endpoints: ['http://[::1]:2379', 'http://[::1]:2379/']"), "etcd.endpoints[1]: http://[::1]:2379 is also etcd.endpoints[0] (remove one)"},
		{"TLS for one", etcd("endpoints: ['https://192.0.2.1:2379', 'http://192.0.2.2:2379']"), "etcd.endpoints[1]: of http://192.0.2.2:2379 and https://192.0.2.1:2379 only one is over TLS (use https for all or for none)"},

		{"user without password", etcd(good + "username: a"), "etcd.username: set without etcd.password_file (set both or neither)"},
		{"prefix", etcd(good + "prefix: /hostfabric/"), `etcd.prefix: "/hostfabric/" is not a prefix of keys (such as /hostfabric/v1, without a slash at the end)`},
		{"empty prefix", etcd(good + "prefix: ''"), `etcd.prefix: "" is not a prefix of keys (such as /hostfabric/v1, without a slash at the end)`},
		{"timeout", etcd(good + "timeout: 50ms"), "etcd.timeout: 50ms is not from 100ms to 1m"},
		{"timeout unit", etcd(good + "timeout: 3"), `etcd.timeout: "3" is not a duration (write 3s for seconds)`},
		{"host_id", etcd(good + "host_id: a/b"), `etcd.host_id: "a/b" is not a host's identity (letters, digits, '.', '_' and '-', at most 64)`},

		// Form counts with static blocks too.
		{"static", small + "etcd: {endpoints: [x], key_file: k}\n", `etcd.endpoints[0]: "x" is not an endpoint of etcd` + sample + "\netcd.key_file: set without etcd.cert_file (set both or neither)"},
	} {
		t.Run(tc.name, func(t *testing.T) { refused(t, tc.file, tc.want) })
	}
}

// pki has a certification authority, one client with its key, and the key of somebody else.
type pki struct{ ca, cert, key, otherKey []byte }

func newPKI(t *testing.T) pki {
	t.Helper()
	newKey := func() (*ecdsa.PrivateKey, []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return k, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	sign := func(c, parent *x509.Certificate, k, signer *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	caKey, _ := newKey()
	key, keyPEM := newKey()
	_, otherPEM := newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	client := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host1"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return pki{ca: sign(ca, ca, caKey, caKey), cert: sign(client, ca, key, caKey), key: keyPEM, otherKey: otherPEM}
}

// TestEtcdFiles lays the files beside the configuration, which names them relative to itself.
func TestEtcdFiles(t *testing.T) {
	p := newPKI(t)
	junk := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")})
	const tlsEndpoint, plain, local = "https://192.0.2.1:2379", "http://192.0.2.1:2379", "unix:///run/etcd.sock"
	for _, tc := range []struct {
		name, endpoint, keys, want string
		replace                    map[string][]byte
		mode                       map[string]os.FileMode
	}{
		{name: "all", endpoint: tlsEndpoint, keys: "ca_file: ca.pem, cert_file: host.pem, key_file: key.pem, username: host1, password_file: password"},
		{name: "authority alone", endpoint: tlsEndpoint, keys: "ca_file: ca.pem"},
		{name: "client alone", endpoint: tlsEndpoint, keys: "cert_file: host.pem, key_file: key.pem"},
		{name: "the system's authorities", endpoint: tlsEndpoint},
		{name: "no TLS", endpoint: plain, keys: "username: host1, password_file: password"},
		{name: "socket", endpoint: local},
		{name: "key for the group", endpoint: tlsEndpoint, keys: "cert_file: host.pem, key_file: key.pem", mode: map[string]os.FileMode{"key.pem": 0o640}},
		{name: "authorities", endpoint: tlsEndpoint, keys: "ca_file: ca.pem", replace: map[string][]byte{"ca.pem": append([]byte("# two\n"), append(p.ca, p.cert...)...)}},

		{name: "no such file", endpoint: tlsEndpoint, keys: "ca_file: none.pem", want: "etcd.ca_file: DIR/none.pem cannot be read: no such file or directory"},
		{name: "directory", endpoint: tlsEndpoint, keys: "ca_file: .", want: "etcd.ca_file: DIR is not a regular file"},
		{name: "no certificate", endpoint: tlsEndpoint, keys: "ca_file: key.pem", want: "etcd.ca_file: DIR/key.pem does not hold a certificate (in PEM: -----BEGIN CERTIFICATE-----)"},
		{name: "junk in a certificate", endpoint: tlsEndpoint, keys: "ca_file: ca.pem", replace: map[string][]byte{"ca.pem": append(p.ca, junk...)}, want: "etcd.ca_file: DIR/ca.pem: certificate 2: malformed certificate"},
		{name: "key of somebody else", endpoint: tlsEndpoint, keys: "cert_file: host.pem, key_file: key.pem", replace: map[string][]byte{"key.pem": p.otherKey}, want: "etcd.key_file: DIR/key.pem does not go with etcd.cert_file: private key does not match public key"},
		{name: "no key", endpoint: tlsEndpoint, keys: "cert_file: host.pem, key_file: host.pem", mode: map[string]os.FileMode{"host.pem": 0o600}, want: "etcd.key_file: DIR/host.pem does not go with etcd.cert_file: found a certificate rather than a key in the PEM for the private key"},
		{name: "key open to everybody", endpoint: tlsEndpoint, keys: "cert_file: host.pem, key_file: key.pem", mode: map[string]os.FileMode{"key.pem": 0o644}, want: "etcd.key_file: DIR/key.pem is open to everybody (mode 0644) (chmod 0600 DIR/key.pem)"},
		{name: "certificate without key", endpoint: tlsEndpoint, keys: "cert_file: host.pem", want: "etcd.cert_file: set without etcd.key_file (set both or neither)"},
		{name: "key without certificate", endpoint: tlsEndpoint, keys: "key_file: key.pem", want: "etcd.key_file: set without etcd.cert_file (set both or neither)"},
		{name: "password without user", endpoint: plain, keys: "password_file: password", want: "etcd.password_file: set without etcd.username (set both or neither)"},
		{name: "password open to everybody", endpoint: plain, keys: "username: a, password_file: password", mode: map[string]os.FileMode{"password": 0o604}, want: "etcd.password_file: DIR/password is open to everybody (mode 0604) (chmod 0600 DIR/password)"},
		{name: "files without TLS", endpoint: plain, keys: "ca_file: ca.pem, cert_file: host.pem, key_file: key.pem", want: "etcd.endpoints[0]: http://192.0.2.1:2379 is without TLS and makes no use of ca_file, cert_file, key_file (use https, or remove what is not used)"},
		{name: "files for a socket", endpoint: local, keys: "ca_file: ca.pem", want: "etcd.endpoints[0]: unix:///run/etcd.sock is without TLS and makes no use of ca_file (use https, or remove what is not used)"},
		{
			name: "several at once", endpoint: tlsEndpoint, keys: "ca_file: x, cert_file: y, key_file: z, username: a, password_file: w",
			want: "etcd.ca_file: DIR/x cannot be read: no such file or directory\netcd.cert_file: DIR/y cannot be read: no such file or directory\n" +
				"etcd.key_file: DIR/z cannot be read: no such file or directory\netcd.password_file: DIR/w cannot be read: no such file or directory",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, inEtcd[:strings.Index(inEtcd, "etcd: {")]+"fabric: [10.64.0.0/12]\netcd: {endpoints: ['"+tc.endpoint+"'], "+tc.keys+"}\n")
			dir := filepath.Dir(path)
			for name, content := range map[string][]byte{"ca.pem": p.ca, "host.pem": p.cert, "key.pem": p.key, "password": []byte("s3cret\n")} {
				mode := os.FileMode(0o600)
				if name == "ca.pem" || name == "host.pem" {
					mode = 0o644
				}
				if m, ok := tc.mode[name]; ok {
					mode = m
				}
				if c, ok := tc.replace[name]; ok {
					content = c
				}
				if err := errors.Join(os.WriteFile(filepath.Join(dir, name), content, mode), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
					t.Fatal(err)
				}
			}
			c, err := Load(path, nil)
			if tc.want != "" {
				if diff := cmp.Diff(strings.ReplaceAll(tc.want, "DIR", dir), errorText(err)); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkTLS(t, c.Etcd.TLS, p, tc.endpoint == tlsEndpoint, tc.keys)
			if got, want := string(c.Etcd.Password) != "", strings.Contains(tc.keys, "password_file"); got != want || want && string(c.Etcd.Password) != "s3cret" {
				t.Errorf("password %q", string(c.Etcd.Password))
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return "accepted"
	}
	return err.Error()
}

func checkTLS(t *testing.T, c *tls.Config, p pki, want bool, keys string) {
	t.Helper()
	if !want {
		if c != nil {
			t.Error("TLS without https")
		}
		return
	}
	if c == nil {
		t.Fatal("no TLS")
	}
	block, _ := pem.Decode(p.cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(keys, "ca_file") {
		// The authority is the one that is trusted: it has signed the client's certificate as well.
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.RootCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
	} else if c.RootCAs != nil {
		t.Error("not the system's authorities")
	}
	if strings.Contains(keys, "cert_file") {
		if len(c.Certificates) != 1 || !leaf.Equal(c.Certificates[0].Leaf) {
			t.Errorf("certificates: %v", c.Certificates)
		}
	} else if len(c.Certificates) != 0 {
		t.Error("a certificate from nowhere")
	}
}

// TestEtcdFilesAreLeftAlone by the speaker, and where etcd is not the source: none of these exists.
func TestEtcdFilesAreLeftAlone(t *testing.T) {
	const section = "etcd: {endpoints: ['https://192.0.2.1:2379'], ca_file: a, cert_file: b, key_file: c, username: d, password_file: e}\n"
	if c := mustLoad(t, small+section, nil); c.Etcd.TLS != nil || c.Etcd.Password != "" {
		t.Errorf("read with static blocks: %+v", c.Etcd)
	}
	c, err := LoadWithoutSecrets(write(t, small+"source: etcd\nfabric: [10.64.0.0/12, 'fd00:64::/48']\n"+section), nil)
	if err != nil || c.Etcd.TLS != nil || c.Etcd.Password != "" || c.Etcd.Username != "d" {
		t.Errorf("without secrets: %+v, %v", c, err)
	}
}

func TestEtcdEnvironment(t *testing.T) {
	t.Setenv("HOSTFABRIC_SOURCE", "etcd")
	t.Setenv("HOSTFABRIC_ETCD_USERNAME", "host1")
	t.Setenv("HOSTFABRIC_ETCD_PASSWORD_FILE", "nowhere")
	t.Setenv("HOSTFABRIC_ETCD_HOST_ID", "h1")
	t.Setenv("HOSTFABRIC_ETCD_TIMEOUT", "1s")
	path := write(t, small+"fabric: [10.64.0.0/12, 'fd00:64::/48']\netcd: {endpoints: ['http://127.0.0.1:2379']}\n")
	_, err := Load(path, nil)
	want := "etcd.password_file: " + filepath.Dir(path) + "/nowhere cannot be read: no such file or directory, set by HOSTFABRIC_ETCD_PASSWORD_FILE"
	if errorText(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "nowhere"), []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantEtcd := Etcd{Endpoints: []string{"http://127.0.0.1:2379"}, Username: "host1", Password: "s3cret", Prefix: "/hostfabric/v1", Timeout: time.Second, HostID: "h1"}
	if diff := cmp.Diff(wantEtcd, c.Etcd); diff != "" || c.Source != SourceEtcd {
		t.Errorf("source %s; -want +got:\n%s", c.Source, diff)
	}
}
