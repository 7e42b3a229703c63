package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// downLog remembers why each session was last lost or refused. GoBGP says so in its log only: its API has no field.
type downLog struct {
	mu sync.Mutex
	m  map[netip.Addr]*downs // guarded by mu
}

// downs is the account of one neighbor.
type downs struct {
	last meta.Down
	// cause is what was said before the end of the session, or of the attempt at one: it says more than the end itself.
	cause string
	up    bool
	// limited are the families that were over their limit since the session came up.
	limited map[string]bool
}

func newDownLog() *downLog { return &downLog{m: map[netip.Addr]*downs{}} }

// GoBGP's messages that tell of sessions.
const (
	peerUp       = "Peer Up"
	peerDown     = "Peer Down"
	prefixLimit  = "prefix limit reached"
	holdExpired  = "hold timer expired"
	received     = "received notification"
	sent         = "sent notification"
	stateChanged = "state changed" // of level debug, but told at any level
)

// observe takes a message, and reports whether it only repeats an earlier one.
func (d *downLog) observe(msg string, fields log.Fields) (repeats bool) {
	switch msg {
	case peerUp, peerDown, prefixLimit, holdExpired, received, sent, stateChanged:
	default:
		return false
	}
	addr, err := netip.ParseAddr(fmt.Sprint(fields["Key"]))
	if err != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.m[addr]
	if n == nil {
		n = &downs{last: meta.Down{Peer: addr}}
		d.m[addr] = n
	}
	return n.observe(msg, fields)
}

func (n *downs) observe(msg string, fields log.Fields) (repeats bool) {
	switch msg {
	case peerUp:
		n.up, n.cause, n.limited = true, "", nil
	case peerDown:
		n.up = false
		n.end(reasonDown(fmt.Sprint(fields["Reason"])))
	case stateChanged:
		// With a session that was up, "Peer Down" says the same.
		if old := fields["old"]; fields["new"] == idle && (old == openSent || old == openConfirm) {
			n.end(reasonOpen(fmt.Sprint(fields["reason"])))
		}
	case prefixLimit:
		return n.overLimit(fields)
	case holdExpired:
		n.because(msg)
	case received, sent:
		if n.cause == "" { // what led to it says more
			n.because(strings.TrimSuffix(msg, " notification") + ": " + notification(fields))
		}
	}
	return false
}

// overLimit comes with each UPDATE that arrives until the session is shut.
func (n *downs) overLimit(fields log.Fields) (repeats bool) {
	family := fmt.Sprint(fields["Family"])
	if _, warning := fields["Pct"]; warning {
		return false
	}
	if n.limited[family] {
		return true
	}
	if n.limited == nil {
		n.limited = map[string]bool{}
	}
	n.limited[family] = true
	if n.up {
		n.because(fmt.Sprintf("%s: more %s prefixes than allowed", prefixLimit, family))
	}
	return false
}

func (n *downs) because(cause string) {
	n.cause = cause
	n.last.Reason, n.last.At = cause, time.Now()
}

func (n *downs) end(reason string) {
	if n.cause != "" {
		reason = n.cause
	}
	n.cause = ""
	n.last.Reason, n.last.At = reason, time.Now()
}

var (
	idle        = bgp.BGP_FSM_IDLE.String()
	openSent    = bgp.BGP_FSM_OPENSENT.String()
	openConfirm = bgp.BGP_FSM_OPENCONFIRM.String()
)

// reasonDown puts GoBGP's reason for the end of a session into words.
func reasonDown(reason string) string {
	switch reason {
	case "graceful-restart", "read-failed", "write-failed":
		// Under graceful restart GoBGP names the first for each of the others too. Notifications were logged before.
		return "connection closed by the peer or lost"
	case "hold-timer-expired":
		return holdExpired
	}
	// GoBGP does not know the subcode of RFC 8538.
	return strings.Replace(reason, "subcode 9(undefined)", "subcode 9(hard reset)", 1)
}

// reasonOpen puts GoBGP's reason for the failure of an attempt at a session into words.
func reasonOpen(reason string) string {
	switch reason {
	case "invalid-msg":
		return meta.OpenRefused
	case "read-failed", "write-failed":
		return "the peer closed the connection while OPEN messages were exchanged"
	}
	return reasonDown(reason)
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
	for _, n := range d.m {
		if n.last.Reason != "" {
			out = append(out, n.last.Encode())
		}
	}
	return out
}
