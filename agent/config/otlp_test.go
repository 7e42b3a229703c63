package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOTLPEndpoints(t *testing.T) {
	for text, want := range map[string]string{
		"off":                                 "",
		"http://192.0.2.1:4318":               "http://192.0.2.1:4318/v1/logs",
		"http://192.0.2.1:4318/":              "http://192.0.2.1:4318/v1/logs",
		"https://otel.example.net:443/a/logs": "https://otel.example.net:443/a/logs",
		"grpc://[fd00::1]:4317":               "grpc://[fd00::1]:4317",
		"grpcs://otel.example.net:4317/":      "grpcs://otel.example.net:4317",
	} {
		c := mustLoad(t, small+"otlp: {endpoint: '"+text+"'}\n", nil)
		if got := c.OTLP.Endpoint.String(); got != want || c.OTLP.Endpoint.IsZero() != (want == "") {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
		if c.OTLP.Endpoint.TLS != (c.OTLP.TLS != nil) {
			t.Errorf("%s: TLS %v", text, c.OTLP.TLS)
		}
	}
	for text, want := range map[string]string{
		"192.0.2.1:4318":               `"192.0.2.1:4318" is not an OTLP receiver`,
		"http://192.0.2.1":             `"http://192.0.2.1" has no port (OTLP's are 4317 over gRPC and 4318 over HTTP)`,
		"http://192.0.2.1:0":           "is not an OTLP receiver",
		"http://:4318":                 "is not an OTLP receiver",
		"http://a_b:4318":              "is not an OTLP receiver",
		"ftp://192.0.2.1:4318":         "is not an OTLP receiver",
		"grpc://192.0.2.1:4317/a":      "is not an OTLP receiver",
		"http://192.0.2.1:4318?a=b":    "is not an OTLP receiver",
		"http://u:s3cret@192.0.2.1:80": "there is a user in the address (write a header to otlp.headers_file)",
	} {
		_, err := Load(write(t, small+"otlp: {endpoint: '"+text+"'}\n"), nil)
		if got := errorText(err); !strings.HasPrefix(got, "otlp.endpoint: ") || !strings.Contains(got, want) || strings.Contains(got, "s3cret") {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestOTLPFiles(t *testing.T) {
	p := newPKI(t)
	for _, tc := range []struct {
		keys, headers string
		mode          os.FileMode
		want          string
	}{
		{keys: "endpoint: 'https://192.0.2.1:4318', ca_file: ca.pem, headers_file: headers", headers: "# for us\nauthorization: Bearer s3cret\n\nX-Scope-OrgID:  fabric \n"},
		{keys: "endpoint: 'http://192.0.2.1:4318', ca_file: ca.pem", want: "otlp.ca_file: not used: otlp.endpoint is without TLS (remove it)"},
		{keys: "headers_file: headers", want: "otlp.headers_file: not used: otlp.endpoint is empty (remove it)"},
		{keys: "endpoint: 'grpcs://192.0.2.1:4317', ca_file: none.pem", want: "otlp.ca_file: DIR/none.pem cannot be read: no such file or directory"},
		{keys: "endpoint: 'grpc://192.0.2.1:4317', headers_file: headers", headers: "a: b", mode: 0o644, want: "otlp.headers_file: DIR/headers is open to everybody (mode 0644) (chmod 0600 DIR/headers)"},
		{keys: "endpoint: 'grpc://192.0.2.1:4317', headers_file: headers", headers: "a: b\ns3cret", want: "otlp.headers_file: DIR/headers: line 2 is not a header (such as Authorization: Bearer TOKEN)"},
		{keys: "endpoint: 'grpc://192.0.2.1:4317', headers_file: headers", headers: "a b: c", want: "otlp.headers_file: DIR/headers: line 1 is not a header (such as Authorization: Bearer TOKEN)"},
		{keys: "endpoint: 'grpc://192.0.2.1:4317', headers_file: headers", want: "otlp.headers_file: DIR/headers does not hold a header (a line such as Authorization: Bearer TOKEN)"},
	} {
		t.Run(tc.keys, func(t *testing.T) {
			path := write(t, small+"otlp: {"+tc.keys+"}\n")
			dir := filepath.Dir(path)
			if tc.mode == 0 {
				tc.mode = 0o600
			}
			headers := filepath.Join(dir, "headers")
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "ca.pem"), p.ca, 0o644), os.WriteFile(headers, []byte(tc.headers), tc.mode), os.Chmod(headers, tc.mode)); err != nil {
				t.Fatal(err)
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
			if c.OTLP.TLS == nil || c.OTLP.TLS.RootCAs == nil {
				t.Error("the authority is not taken")
			}
			if diff := cmp.Diff(map[string]Secret{"Authorization": "Bearer s3cret", "X-Scope-Orgid": "fabric"}, c.OTLP.Headers); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if text := fmt.Sprintf("%v", c.OTLP); strings.Contains(text, "s3cret") {
				t.Error("the token shows")
			}
			speaker, err := LoadWithoutSecrets(path, nil)
			if err != nil || speaker.OTLP.Headers != nil {
				t.Errorf("without secrets: %v, %v", speaker.OTLP, err)
			}
		})
	}
}
