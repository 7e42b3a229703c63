package config

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Etcd is how to reach etcd, and what this host is called there.
type Etcd struct {
	Endpoints []string    // http://host:port, https://host:port or unix:///path; all of them over TLS, or none
	TLS       *tls.Config // nil without https
	Username  string      // empty: none
	Password  Secret
	Prefix    string        // of all keys; no slash at its end
	Timeout   time.Duration // of one request
	HostID    string        // under which this host claims; empty: one that is kept in StateDir
}

// etcdDraft is the part of the section etcd that is not in Etcd.
type etcdDraft struct {
	endpoints                               []located[string]
	caFile, certFile, keyFile, passwordFile string
}

const httpsScheme = "https://"

func isTLS(endpoint string) bool { return strings.HasPrefix(endpoint, httpsScheme) }

// parseEndpoint accepts what Etcd.Endpoints has.
func parseEndpoint(text string) (string, error) {
	// Before any message that shows the text.
	if strings.Contains(text, "@") {
		return "", &problem{"there is a user in the address", "write etcd.username and etcd.password_file"}
	}
	if path, ok := strings.CutPrefix(text, unixScheme); ok {
		path, err := parseDir(path)
		if err == nil {
			err = checkSocket(path)
		}
		return unixScheme + path, err
	}
	bad := &problem{fmt.Sprintf("%q is not an endpoint of etcd", text), "such as https://192.0.2.1:2379 or unix:///run/etcd.sock"}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return "", bad
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", bad
	}
	if u.Port() == "" {
		return "", &problem{fmt.Sprintf("%q has no port", text), "etcd's is 2379"}
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
		return "", bad
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && !hostName.MatchString(u.Hostname()) {
		return "", bad
	}
	return u.Scheme + "://" + u.Host, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

var keyPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)

func parseKeyPrefix(text string) (string, error) {
	if len(text) > 255 || !keyPrefix.MatchString(text) {
		return "", &problem{fmt.Sprintf("%q is not a prefix of keys", text), "such as /hostfabric/v1, without a slash at the end"}
	}
	return text, nil
}

var hostID = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,64}$`)

func parseHostID(text string) (string, error) {
	if !hostID.MatchString(text) {
		return "", &problem{fmt.Sprintf("%q is not a host's identity", text), "letters, digits, '.', '_' and '-', at most 64"}
	}
	return text, nil
}

// setEtcd reads the files of the section only if etcd is the source: another host need not have them.
func (d *draft) setEtcd(l *layers, r *report, f files) {
	list := l.list("etcd.endpoints", r, "")
	for i, v := range list {
		text, ok := v.(string)
		if !ok {
			continue
		}
		path := fmt.Sprintf("etcd.endpoints[%d]", i)
		endpoint, err := parseEndpoint(text)
		if err != nil {
			r.addErr(path, "", err)
			continue
		}
		d.etcd.endpoints = append(d.etcd.endpoints, located[string]{path, endpoint})
	}
	if d.Source != SourceEtcd {
		return
	}
	if len(list) == 0 && r.good("etcd", "etcd.endpoints") {
		r.add("etcd.endpoints", "missing", "the members of etcd, such as [https://192.0.2.1:2379]")
	}
	if d.etcd.passwordFile != "" {
		password, err := f.password(d.etcd.passwordFile)
		if err != nil {
			r.addErr("etcd.password_file", l.source["etcd.password_file"], err)
		}
		d.Etcd.Password = password
	}
	d.setTLS(l, r, f)
}

func (d *draft) checkEtcd(r *report) {
	e := &d.etcd
	for _, pair := range []struct{ key, value, other, otherValue string }{
		{"etcd.cert_file", e.certFile, "etcd.key_file", e.keyFile},
		{"etcd.username", d.Etcd.Username, "etcd.password_file", e.passwordFile},
	} {
		switch {
		case !r.good(pair.key, pair.other):
		case pair.value != "" && pair.otherValue == "":
			r.add(pair.key, "set without "+pair.other, "set both or neither")
		case pair.value == "" && pair.otherValue != "":
			r.add(pair.other, "set without "+pair.key, "set both or neither")
		}
	}
	var given []string
	for _, f := range []struct{ key, name string }{{"ca_file", e.caFile}, {"cert_file", e.certFile}, {"key_file", e.keyFile}} {
		if f.name != "" {
			given = append(given, f.key)
		}
	}
	seen := map[string]string{}
	for _, p := range e.endpoints {
		first := e.endpoints[0]
		switch {
		case seen[p.value] != "":
			r.add(p.path, fmt.Sprintf("%s is also %s", p.value, seen[p.value]), "remove one")
		case len(given) > 0 && !isTLS(p.value):
			r.add(p.path, fmt.Sprintf("%s is without TLS and makes no use of %s", p.value, strings.Join(given, ", ")),
				"use https, or remove what is not used")
		case len(given) == 0 && isTLS(p.value) != isTLS(first.value):
			r.add(p.path, fmt.Sprintf("of %s and %s only one is over TLS", p.value, first.value), "use https for all or for none")
		}
		seen[p.value] = p.path
	}
}
