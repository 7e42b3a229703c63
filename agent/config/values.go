package config

import (
	"log/slog"
	"net"
	"strconv"
)

// Secret is a value that formatting and logging do not show. string(s) does.
type Secret string

const hidden = "(hidden)"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString keeps %#v from showing it.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps encoders from showing it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue keeps slog from showing it.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Listener is where a server listens. The zero value is nowhere.
type Listener struct {
	Network string // tcp or unix, as net.Listen takes it
	Address string
}

// Port is that of a tcp listener.
func (l Listener) Port() uint16 {
	_, text, _ := net.SplitHostPort(l.Address)
	port, _ := strconv.ParseUint(text, 10, 16) // it was parsed before
	return uint16(port)
}

// IsZero reports that there is nothing to listen on.
func (l Listener) IsZero() bool { return l == Listener{} }

// String is the form the file has: host:port, or unix:///path.
func (l Listener) String() string {
	if l.Network == "unix" {
		return unixScheme + l.Address
	}
	return l.Address
}

const unixScheme = "unix://"
