package meta

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// PeerLabel is the label of the goroutines that serve one peer.
const PeerLabel = "bgp-peer"

// handler is in the name of every method of GoBGP's goroutines of one peer. Its event loop, which serves all, has the label
// of the peer it served last: that says nothing.
const handler = "/pkg/server.(*fsmHandler)."

const crashInfix = ".crash."

// CrashFile is the name of a speaker's crash report, beside its socket.
func CrashFile(socket string, pid int) string { return socket + crashInfix + strconv.Itoa(pid) }

// LastCrash is the name of the last report that an agent has read.
func LastCrash(socket string) string { return socket + ".last-crash" }

// CrashPID reads the process from a name that CrashFile made.
func CrashPID(socket, name string) (pid int, ok bool) {
	s, ok := strings.CutPrefix(name, socket+crashInfix)
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(s)
	return pid, err == nil
}

// The runtime indents what a panic says, so that no peer can write such a line into a report.
var goroutine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[running.*$`)

var peerLabel = regexp.MustCompile(`"` + PeerLabel + `": "([^"]+)"`)

// Crash is a report of the runtime.
type Crash struct {
	Reason string     // its first line: "panic: ..." or "fatal error: ..."
	Peer   netip.Addr // whose goroutine it was; zero where it was nobody's own
}

// ParseCrash reads a report. Its first goroutine is the one that failed.
func ParseCrash(report string) Crash {
	var c Crash
	c.Reason, _, _ = strings.Cut(report, "\n")
	at := goroutine.FindStringIndex(report)
	if at == nil {
		return c
	}
	head, rest := report[at[0]:at[1]], report[at[1]:]
	stack, _, _ := strings.Cut(rest, "\n\n")
	m := peerLabel.FindStringSubmatch(head)
	if m == nil || !strings.Contains(stack, handler) {
		return c
	}
	c.Peer, _ = netip.ParseAddr(m[1]) // zero if it is none
	return c
}
