package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v3/pkg/log"
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

// quiet are GoBGP's warnings of what is normal: withdrawals of routes the import policy refused, and a router that comes back
// without having kept its state.
var quiet = map[string]bool{
	"No matching path for withdraw found, may be path was not installed into table": true,
	"restart flag is not set": true,
}

func (l *logger) Warn(msg string, fields log.Fields) {
	level := slog.LevelWarn
	if l.downs.observe(msg, fields) || quiet[msg] {
		level = slog.LevelDebug
	}
	l.write(level, msg, fields)
}

func (l *logger) Info(msg string, fields log.Fields) {
	l.downs.observe(msg, fields)
	l.write(slog.LevelInfo, msg, fields)
}

func (l *logger) Debug(msg string, fields log.Fields) {
	l.downs.observe(msg, fields)
	labelPeer(msg, fields)
	l.write(slog.LevelDebug, msg, fields)
}

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
