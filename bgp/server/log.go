package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// logger writes GoBGP's log to slog. GoBGP's Fatal must not end the process without a word, or under a lock: it is
// reported to Run, which ends the process in order.
type logger struct {
	log   *slog.Logger
	fatal chan<- error
	downs *downLog
}

func newLogger(l *slog.Logger, fatal chan<- error, downs *downLog) log.Logger {
	return &logger{log: l.With("component", "gobgp"), fatal: fatal, downs: downs}
}

func (l *logger) write(level slog.Level, msg string, fields log.Fields) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, len(fields))
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if k != log.FieldFacility {
			attrs = append(attrs, slog.Any(strings.ToLower(strings.ReplaceAll(k, " ", "_")), fields[k]))
		}
	}
	l.log.LogAttrs(context.Background(), level, msg, attrs...)
}

func (l *logger) Fatal(msg string, fields log.Fields) {
	l.write(slog.LevelError, msg, fields)
	select {
	case l.fatal <- errors.New(describe(msg, fields)):
	default: // an earlier one is already being handled
	}
}

func (l *logger) Panic(msg string, fields log.Fields) {
	l.write(slog.LevelError, msg, fields)
	panic(describe(msg, fields))
}

func (l *logger) Error(msg string, fields log.Fields) { l.write(slog.LevelError, msg, fields) }

func (l *logger) Warn(msg string, fields log.Fields) {
	l.downs.observe(msg, fields)
	l.write(slog.LevelWarn, msg, fields)
}

func (l *logger) Info(msg string, fields log.Fields) {
	l.downs.observe(msg, fields)
	l.write(slog.LevelInfo, msg, fields)
}

func (l *logger) Debug(msg string, fields log.Fields) { l.write(slog.LevelDebug, msg, fields) }

// SetLevel does nothing: the level is the agent's log configuration.
func (l *logger) SetLevel(log.LogLevel) {}

func (l *logger) GetLevel() log.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return log.DebugLevel
	}
	return log.InfoLevel
}

func describe(msg string, fields log.Fields) string {
	for _, k := range []string{"Error", "Err"} {
		if v, ok := fields[k]; ok {
			return fmt.Sprintf("%s: %v", msg, v)
		}
	}
	return msg
}

// downLog remembers why each session was last lost or refused. GoBGP says so in its log only: its API has no field.
type downLog struct {
	mu sync.Mutex
	m  map[netip.Addr]meta.Down // guarded by mu
}

func newDownLog() *downLog { return &downLog{m: map[netip.Addr]meta.Down{}} }

const prefixLimit = "prefix limit reached"

func (d *downLog) observe(msg string, fields log.Fields) {
	var reason string
	switch msg {
	case "Peer Down":
		// GoBGP does not know the subcode of RFC 8538.
		reason = strings.Replace(fmt.Sprint(fields["Reason"]), "subcode 9(undefined)", "subcode 9(hard reset)", 1)
	case prefixLimit:
		if _, warning := fields["Pct"]; warning {
			return
		}
		reason = fmt.Sprintf("%s: more %v prefixes than allowed", msg, fields["Family"])
	case "received notification", "sent notification":
		reason = strings.Replace(msg, " notification", "", 1) + ": " + notification(fields)
	default:
		return
	}
	addr, err := netip.ParseAddr(fmt.Sprint(fields["Key"]))
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.m[addr]
	if strings.HasPrefix(last.Reason, prefixLimit) && time.Since(last.At) < time.Second {
		return // what follows from it says less
	}
	d.m[addr] = meta.Down{Peer: addr, At: time.Now(), Reason: reason}
}

// notification describes a NOTIFICATION message. GoBGP logs codes, or what it had to say in words.
func notification(fields log.Fields) string {
	code, err1 := strconv.ParseUint(fmt.Sprint(fields["Code"]), 10, 8)
	sub, err2 := strconv.ParseUint(fmt.Sprint(fields["Subcode"]), 10, 8)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Sprint(fields["Data"])
	}
	return bgp.NewNotificationErrorCode(uint8(code), uint8(sub)).String()
}

func (d *downLog) encode() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]string, 0, len(d.m))
	for _, v := range d.m {
		out = append(out, v.Encode())
	}
	return out
}
