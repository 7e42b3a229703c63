// Package meta names what the speaker tells the agent in gRPC response headers, beside GoBGP's own API.
package meta

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Header keys.
const (
	Version  = "hostfabric-version"   // of the speaker's binary, on every answer
	PID      = "hostfabric-pid"       // of the speaker, on every answer
	PeerDown = "hostfabric-peer-down" // on ListPeer: one value a neighbor whose session was lost or refused
)

// OpenRefused is the reason when a peer answers our OPEN with something else than its own, or a KEEPALIVE: a NOTIFICATION,
// if the peer's counter of them says that there was one. GoBGP does not tell what is in it.
const OpenRefused = "the peer refuses our OPEN (NOTIFICATION received): check ASN, router ID, password and address on both sides"

// Down is why and when a session was last lost, or could not be set up.
type Down struct {
	Peer   netip.Addr
	At     time.Time
	Reason string
}

// Encode makes a header value: printable ASCII.
func (d Down) Encode() string {
	return d.Peer.String() + " " + strconv.FormatInt(d.At.Unix(), 10) + " " + url.QueryEscape(d.Reason)
}

// ParseDown reads what Encode wrote.
func ParseDown(s string) (Down, bool) {
	f := strings.Split(s, " ")
	if len(f) != 3 {
		return Down{}, false
	}
	addr, err1 := netip.ParseAddr(f[0])
	at, err2 := strconv.ParseInt(f[1], 10, 64)
	reason, err3 := url.QueryUnescape(f[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return Down{}, false
	}
	return Down{Peer: addr, At: time.Unix(at, 0), Reason: reason}, true
}
