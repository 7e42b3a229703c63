package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// OTLP is where the ledger's events are sent besides, as OpenTelemetry log records.
type OTLP struct {
	Endpoint OTLPEndpoint
	Headers  map[string]Secret // such as Authorization; keys in the form of HTTP
	TLS      *tls.Config       // nil without TLS
}

// OTLPEndpoint is a receiver; the zero one is none.
type OTLPEndpoint struct {
	GRPC    bool // else HTTP
	TLS     bool
	Address string // host:port
	Path    string // of HTTP
}

// IsZero reports whether nothing is sent.
func (e OTLPEndpoint) IsZero() bool { return e.Address == "" }

func (e OTLPEndpoint) String() string {
	if e.IsZero() {
		return ""
	}
	scheme := map[[2]bool]string{{false, false}: "http", {false, true}: "https", {true, false}: "grpc", {true, true}: "grpcs"}[[2]bool{e.GRPC, e.TLS}]
	return scheme + "://" + e.Address + e.Path
}

// otlpDraft is the part of the section otlp that is not in OTLP.
type otlpDraft struct{ caFile, headersFile string }

// otlpPath is where a receiver takes log records over HTTP, if nothing else is said.
const otlpPath = "/v1/logs"

// parseOTLPEndpoint accepts "" and off, http(s)://host:port, with a path or without, and grpc(s)://host:port.
func parseOTLPEndpoint(text string) (OTLPEndpoint, error) {
	if text == "" || text == "off" {
		return OTLPEndpoint{}, nil
	}
	// Before any message that shows the text.
	if strings.Contains(text, "@") {
		return OTLPEndpoint{}, &problem{"there is a user in the address", "write a header to otlp.headers_file"}
	}
	bad := &problem{fmt.Sprintf("%q is not an OTLP receiver", text), "such as http://192.0.2.1:4318, https://otel.example.net:4318, grpc://192.0.2.1:4317 or grpcs://...; off for none"}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return OTLPEndpoint{}, bad
	}
	e := OTLPEndpoint{Address: u.Host}
	switch u.Scheme {
	case "http", "https":
		if e.Path = strings.TrimSuffix(u.EscapedPath(), "/"); e.Path == "" {
			e.Path = otlpPath
		}
	case "grpc", "grpcs":
		if e.GRPC = true; u.Path != "" && u.Path != "/" {
			return OTLPEndpoint{}, bad
		}
	default:
		return OTLPEndpoint{}, bad
	}
	e.TLS = u.Scheme == "https" || u.Scheme == "grpcs"
	if u.Port() == "" {
		return OTLPEndpoint{}, &problem{fmt.Sprintf("%q has no port", text), "OTLP's are 4317 over gRPC and 4318 over HTTP"}
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
		return OTLPEndpoint{}, bad
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && !hostName.MatchString(u.Hostname()) {
		return OTLPEndpoint{}, bad
	}
	return e, nil
}

// setOTLP reads the files of the section if anything is to be sent.
func (d *draft) setOTLP(l *layers, r *report, f files) {
	if !r.good("otlp.endpoint") {
		return
	}
	e := d.OTLP.Endpoint
	for _, use := range []struct {
		key, name string
		idle      bool
		why       string
	}{
		{"otlp.ca_file", d.otlp.caFile, !e.TLS, "otlp.endpoint is without TLS"},
		{"otlp.headers_file", d.otlp.headersFile, e.IsZero(), "otlp.endpoint is empty"},
	} {
		if use.name != "" && use.idle {
			r.addErr(use.key, l.source[use.key], &problem{"not used: " + use.why, "remove it"})
			return
		}
	}
	if f.unread {
		return
	}
	if e.TLS {
		d.OTLP.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if d.otlp.caFile != "" {
		_, certs, err := f.certificates(d.otlp.caFile)
		if err != nil {
			r.addErr("otlp.ca_file", l.source["otlp.ca_file"], err)
		}
		d.OTLP.TLS.RootCAs = x509.NewCertPool()
		for _, cert := range certs {
			d.OTLP.TLS.RootCAs.AddCert(cert)
		}
	}
	if d.otlp.headersFile != "" {
		headers, err := f.headers(d.otlp.headersFile)
		if err != nil {
			r.addErr("otlp.headers_file", l.source["otlp.headers_file"], err)
		}
		d.OTLP.Headers = headers
	}
}

// maxHeaders is how large a file of headers may be, in bytes.
const maxHeaders = 64 << 10

// headers reads a file of lines such as "Authorization: Bearer TOKEN" that only its owner and group may read.
func (f files) headers(name string) (map[string]Secret, error) {
	path := f.path(name)
	data, err := readRegular(path, private, maxHeaders)
	if err != nil {
		return nil, err
	}
	headers := make(map[string]Secret)
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || !headerName.MatchString(key) || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, &problem{fmt.Sprintf("%s: line %d is not a header", path, n), "such as Authorization: Bearer TOKEN"}
		}
		headers[http.CanonicalHeaderKey(key)] = Secret(value)
	}
	if len(headers) == 0 {
		return nil, &problem{path + " does not hold a header", "a line such as Authorization: Bearer TOKEN"}
	}
	return headers, nil
}

// headerName is what HTTP and gRPC both take for the name of a header (RFC 9110 section 5.1).
var headerName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
