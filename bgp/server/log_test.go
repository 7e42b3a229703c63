package server

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/log"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

func TestDownReasons(t *testing.T) {
	type entry struct {
		msg    string
		fields log.Fields
	}
	up := entry{"Peer Up", log.Fields{}}
	down := func(reason string) entry { return entry{"Peer Down", log.Fields{"Reason": reason}} }
	state := func(from, reason string) entry {
		return entry{"state changed", log.Fields{"old": "BGP_FSM_" + from, "new": "BGP_FSM_IDLE", "reason": reason}}
	}
	cease := log.Fields{"Code": 6, "Subcode": 2}
	limit := entry{"prefix limit reached", log.Fields{"Family": "ipv4-unicast"}}
	for _, tc := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"nothing yet", []entry{up}, ""},
		{"lost under graceful restart", []entry{up, down("graceful-restart")}, "connection closed by the peer or lost"},
		{"silence", []entry{up, {"hold timer expired", nil}, {"sent notification", log.Fields{"Code": 4, "Subcode": 0}}, down("graceful-restart")}, "hold timer expired"},
		{"shut by the peer", []entry{up, {"received notification", cease}, down("graceful-restart")}, "received: code 6(cease) subcode 2(administrative shutdown)"},
		{"hard reset", []entry{up, down("notification-received code 6(cease) subcode 9(undefined)")}, "notification-received code 6(cease) subcode 9(hard reset)"},
		{"refused, later", []entry{up, down("read-failed"), state("OPENSENT", "invalid-msg")}, meta.OpenRefused},
		{"refused after its OPEN", []entry{state("OPENCONFIRM", "invalid-msg")}, meta.OpenRefused},
		{"we refuse", []entry{{"sent notification", log.Fields{"Data": "as number mismatch"}}, state("OPENSENT", "invalid-msg")}, "sent: as number mismatch"},
		{"hung up, after a known reason", []entry{{"sent notification", log.Fields{"Data": "x"}}, state("OPENSENT", "invalid-msg"), state("OPENSENT", "read-failed")}, "the peer closed the connection while OPEN messages were exchanged"},
		{"no attempt", []entry{up, down("admin-down"), state("ACTIVE", "read-failed")}, "admin-down"},
		{"over the limit", []entry{up, limit, {"sent notification", cease}, down("admin-down"), limit, state("OPENSENT", "invalid-msg")}, meta.OpenRefused},
		{"over the limit, so far", []entry{up, limit, {"sent notification", cease}, down("admin-down"), limit}, "prefix limit reached: more ipv4-unicast prefixes than allowed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			d := newDownLog()
			l := newLogger(slog.New(slog.NewTextHandler(&out, nil)), make(chan error), d)
			for _, e := range tc.entries {
				fields := log.Fields{"Key": "fe80::1%eth0"}
				for k, v := range e.fields {
					fields[k] = v
				}
				switch e.msg {
				case "state changed":
					l.Debug(e.msg, fields)
				case "Peer Up", "Peer Down":
					l.Info(e.msg, fields)
				default:
					l.Warn(e.msg, fields)
				}
			}
			var got meta.Down
			for _, s := range d.encode() {
				got, _ = meta.ParseDown(s)
			}
			if got.Reason != tc.want || tc.want != "" && got.Peer != netip.MustParseAddr("fe80::1%eth0") {
				t.Errorf("%+v, want %q", got, tc.want)
			}
			if n := strings.Count(out.String(), "prefix limit"); n > 1 {
				t.Errorf("prefix limit logged %d times", n)
			}
		})
	}
}

func TestQuietWarnings(t *testing.T) {
	var out bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&out, nil)), make(chan error), newDownLog())
	l.Warn("No matching path for withdraw found, may be path was not installed into table", log.Fields{"Key": "10.0.0.0/24"})
	l.Warn("restart flag is not set", log.Fields{"Key": "10.0.0.1"})
	if out.Len() > 0 {
		t.Errorf("logged at info: %s", &out)
	}
	l.Warn("something else", log.Fields{})
	if !strings.Contains(out.String(), "level=WARN") {
		t.Errorf("a warning is lost: %q", out.String())
	}
}
