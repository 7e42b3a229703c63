package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The parsers turn the text of one value into what it means. What they return as an error is a *problem.

func parseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &problem{fmt.Sprintf("%q is neither true nor false", text), ""}
}

func parseInt(low, high int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high {
			return 0, &problem{fmt.Sprintf("%q is not a number from %d to %d", text, low, high), ""}
		}
		return n, nil
	}
}

func parseUint32(low, high uint32) func(string) (uint32, error) {
	return func(text string) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || uint32(n) < low || uint32(n) > high {
			return 0, &problem{fmt.Sprintf("%q is not a number from %d to %d", text, low, high), ""}
		}
		return uint32(n), nil
	}
}

// parseDuration accepts what time.ParseDuration does within the bounds.
func parseDuration(low, high time.Duration) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil {
			hint := "write it with a unit, such as 500ms, 3s or 2m"
			if _, number := strconv.ParseFloat(text, 64); number == nil {
				hint = "write " + text + "s for seconds"
			}
			return 0, &problem{fmt.Sprintf("%q is not a duration", text), hint}
		}
		if d < low || d > high {
			return 0, &problem{fmt.Sprintf("%s is not from %s to %s", text, short(low), short(high)), ""}
		}
		return d, nil
	}
}

// parseSeconds is parseDuration for what a BGP message carries in whole seconds.
func parseSeconds(low, high time.Duration) func(string) (time.Duration, error) {
	within := parseDuration(low, high)
	return func(text string) (time.Duration, error) {
		d, err := within(text)
		if err == nil && d%time.Second != 0 {
			return 0, &problem{text + " is not a whole number of seconds", ""}
		}
		return d, err
	}
}

// short is d without the zeros that Duration.String adds: 2m, not 2m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// reserved are the AS numbers nobody can have.
var reserved = map[uint32]string{
	0:          "RFC 7607",
	23456:      "AS_TRANS, RFC 6793",
	65535:      "RFC 7300",
	4294967295: "RFC 7300",
}

// parseASN accepts an integer, and asdot (RFC 5396), 64086.59904.
func parseASN(text string) (uint32, error) {
	bad := &problem{fmt.Sprintf("%q is not an AS number", text), "1 to 4294967294, or as 64086.59904"}
	high, low, dotted := strings.Cut(text, ".")
	if !dotted {
		high, low = "0", text
	}
	h, errHigh := strconv.ParseUint(high, 10, 16)
	bits := 16
	if !dotted {
		bits = 32
	}
	n, errLow := strconv.ParseUint(low, 10, bits)
	if errHigh != nil || errLow != nil {
		return 0, bad
	}
	asn := uint32(h)<<16 | uint32(n)
	if why, no := reserved[asn]; no {
		return 0, &problem{fmt.Sprintf("AS number %d is reserved (%s)", asn, why),
			"private ones are 64512 to 65534 and 4200000000 to 4294967294"}
	}
	return asn, nil
}

func parseRouterID(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	id, err := netip.ParseAddr(text)
	if err != nil || !id.Is4() || id.IsUnspecified() {
		return netip.Addr{}, &problem{fmt.Sprintf("%q is not a router id", text),
			"it looks like an IPv4 address, such as 10.0.0.1, also on a host with IPv6 only"}
	}
	return id, nil
}

// parseAddr accepts an address that one host can have.
func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		hint := "such as 10.0.0.1 or fd00::1"
		if p, e := netip.ParsePrefix(text); e == nil {
			hint = "write " + p.Addr().String() + ", without the length"
		}
		return netip.Addr{}, &problem{fmt.Sprintf("%q is not an IP address", text), hint}
	}
	switch {
	case a.Is4In6():
		return netip.Addr{}, &problem{text + " is an IPv4 address written as IPv6", "write " + a.Unmap().String()}
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, &problem{text + " is not the address of one host", ""}
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "":
		return netip.Addr{}, &problem{text + " is link-local and needs its interface", "write " + text + "%eth0"}
	}
	return a, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		hint := "such as 10.64.0.0/26 or fd00:64::/64"
		if a, e := netip.ParseAddr(text); e == nil && a.Zone() == "" {
			hint = fmt.Sprintf("write %s/%d for this one address", a, a.BitLen())
		}
		return netip.Prefix{}, &problem{fmt.Sprintf("%q is not a prefix", text), hint}
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, &problem{text + " is an IPv4 prefix written as IPv6", "write it as IPv4"}
	}
	if p != p.Masked() {
		return netip.Prefix{}, &problem{text + " has host bits set", "write " + p.Masked().String()}
	}
	return p, nil
}

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// parseLabel accepts one DNS label (RFC 1123 section 2.1).
func parseLabel(text string) (string, error) {
	name := strings.ToLower(text)
	if !label.MatchString(name) {
		return "", &problem{fmt.Sprintf("%q is not a host name", text),
			"letters, digits and inner hyphens, at most 63, no dots"}
	}
	return name, nil
}

var group = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)

func parseGroup(text string) (string, error) {
	if !group.MatchString(text) {
		return "", &problem{fmt.Sprintf("%q is not the name of a group", text), ""}
	}
	return text, nil
}

func parseDir(text string) (string, error) {
	if !filepath.IsAbs(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
		return "", &problem{fmt.Sprintf("%q is not an absolute path", text), "begin with /"}
	}
	return filepath.Clean(text), nil
}

func parsePort(text string) (uint16, error) {
	n, err := parseInt(1, 65535)(text)
	return uint16(n), err
}

// parseListener accepts "" and off, address:port, :port and unix:///path.
func parseListener(text string) (Listener, error) {
	if text == "" || text == "off" {
		return Listener{}, nil
	}
	if path, ok := strings.CutPrefix(text, unixScheme); ok {
		path, err := parseDir(path)
		if err == nil {
			err = checkSocket(path)
		}
		return Listener{Network: "unix", Address: path}, err
	}
	full := text
	if strings.HasPrefix(full, ":") {
		full = "[::]" + full
	}
	if a, err := netip.ParseAddrPort(full); err != nil || a.Port() == 0 {
		hint := "such as 127.0.0.1:50051 or unix:///run/x.sock; off for none"
		if port, ok := strings.CutPrefix(text, "localhost:"); ok {
			hint = "write 127.0.0.1:" + port
		}
		return Listener{}, &problem{fmt.Sprintf("%q is not an address and port", text), hint}
	}
	return Listener{Network: "tcp", Address: text}, nil
}

// parseLocal is parseListener for what nobody else may reach, for there is no authentication.
func parseLocal(text string) (Listener, error) {
	l, err := parseListener(text)
	if err != nil || l.Network != "tcp" {
		return l, err
	}
	if a, err := netip.ParseAddrPort(l.Address); err != nil || !a.Addr().IsLoopback() {
		return Listener{}, &problem{text + " is open to the network",
			"it has no authentication; use a loopback address or unix:///path"}
	}
	return l, nil
}

// pluginName is what Docker can call a plugin.
var pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// parsePluginSocket accepts the path of a socket that Docker finds a plugin by. One of the name with .new is there for a moment.
func parsePluginSocket(text string) (string, error) {
	path, err := parseDir(text)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutSuffix(filepath.Base(path), dockerSuffix)
	if !ok || !pluginName.MatchString(name) {
		return "", &problem{fmt.Sprintf("%q does not name a plugin", text), "such as /run/docker/plugins/hostfabric.sock, for docker network create -d hostfabric"}
	}
	return path, checkSocket(path + ".new")
}

// parseDockerAPI accepts unix:///path, and off.
func parseDockerAPI(text string) (string, error) {
	l, err := parseListener(text)
	if err == nil && l.Network == "tcp" {
		err = &problem{fmt.Sprintf("%q is not a unix socket", text), "such as unix:///var/run/docker.sock; off for none"}
	}
	return l.Address, err
}

// maxSocket is what fits into sockaddr_un beside the final zero, in bytes.
const maxSocket = 107

func checkSocket(path string) error {
	if len(path) > maxSocket {
		return &problem{fmt.Sprintf("socket path %s has %d bytes", path, len(path)),
			fmt.Sprintf("a unix socket's path has at most %d", maxSocket)}
	}
	return nil
}

// parseChoice accepts one of the words.
func parseChoice[T ~string](words ...T) func(string) (T, error) {
	return func(text string) (T, error) {
		all := make([]string, len(words))
		for i, w := range words {
			if text == string(w) {
				return w, nil
			}
			all[i] = string(w)
		}
		return "", &problem{fmt.Sprintf("%q is not one of %s", text, strings.Join(all, ", ")), ""}
	}
}

func parseLevel(text string) (slog.Level, error) {
	word, err := parseChoice("debug", "info", "warn", "error")(text)
	if err != nil {
		return 0, err
	}
	var level slog.Level
	return level, level.UnmarshalText([]byte(word))
}
