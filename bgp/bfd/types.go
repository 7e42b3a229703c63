// Package bfd detects dead forwarding paths to directly connected peers: Bidirectional Forwarding Detection in
// asynchronous mode over a single IPv4 or IPv6 hop (RFC 5880, RFC 5881). Serve is what `hostfabric bfd` runs, a process
// that outlives the agent and the speaker, because a session must say whether the host forwards and not whether either
// of them runs. Client is the agent's side. Echo, demand mode and authentication are not offered.
package bfd

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Bounds of what may be asked for.
const (
	MinInterval = 10 * time.Millisecond
	MaxInterval = time.Minute
	MaxSessions = 256
)

// Session is what is wanted of one session.
type Session struct {
	Peer       netip.Addr    `json:"peer"`           // with a zone if link-local
	Interface  string        `json:"interface"`      // packets leave and arrive there; "": the zone, or wherever the route to the peer leads
	Local      netip.Addr    `json:"local,omitzero"` // source address; zero: the kernel's choice
	MinTx      time.Duration `json:"min_tx"`         // desired minimal interval between sent packets, once Up
	MinRx      time.Duration `json:"min_rx"`         // required minimal interval between received packets
	Multiplier uint8         `json:"multiplier"`     // lost packets after which the peer takes us for dead
}

// key is what makes two sessions the same one with other timers.
type key struct {
	peer  netip.Addr
	link  string
	local netip.Addr
}

func (s Session) key() key {
	return key{peer: s.Peer.WithZone(""), link: s.Interface, local: s.Local.WithZone("")}
}

// Status is a session as it is.
type Status struct {
	Session
	State               State         `json:"state"`
	RemoteState         State         `json:"remote_state"`
	Diagnostic          Diagnostic    `json:"diagnostic"`
	RemoteDiagnostic    Diagnostic    `json:"remote_diagnostic"`
	LocalDiscriminator  uint32        `json:"local_discriminator"`
	RemoteDiscriminator uint32        `json:"remote_discriminator"` // 0: none heard of
	TxInterval          time.Duration `json:"tx_interval"`          // between our packets, before jitter; 0: the peer wants none
	RxInterval          time.Duration `json:"rx_interval"`          // between the peer's, before jitter
	DetectionTime       time.Duration `json:"detection_time"`       // without a packet until the session is down; 0 before the first
	Since               time.Time     `json:"since"`                // of the state
	Ups                 uint64        `json:"ups"`                  // changes to Up
	Downs               uint64        `json:"downs"`                // changes from Up
	PacketsIn           uint64        `json:"packets_in"`
	PacketsOut          uint64        `json:"packets_out"`
	PacketsDiscarded    uint64        `json:"packets_discarded"` // addressed to this session and invalid for it
	LastDown            string        `json:"last_down"`         // why and when it last left Up
	Error               string        `json:"error"`             // why it cannot send, or its family cannot receive; "" if it can
}

// normalize fills in what is implied and says what is wrong.
func (s Session) normalize() (Session, error) {
	s.Peer, s.Local = s.Peer.Unmap(), s.Local.Unmap()
	if !s.Peer.IsValid() || s.Peer.IsUnspecified() || s.Peer.IsMulticast() || s.Peer.IsLoopback() {
		return s, fmt.Errorf("peer %s: not the address of a neighbour", s.Peer)
	}
	if z := s.Peer.Zone(); z != "" {
		if s.Interface != "" && s.Interface != z {
			return s, fmt.Errorf("peer %s: interface %s contradicts the zone", s.Peer, s.Interface)
		}
		s.Interface = z
	}
	var errs []error
	if s.Peer.IsLinkLocalUnicast() && s.Peer.Is6() && s.Interface == "" {
		errs = append(errs, errors.New("a link-local address needs an interface"))
	}
	if s.Peer.IsLinkLocalUnicast() && s.Peer.Is6() {
		s.Peer = s.Peer.WithZone(s.Interface)
	}
	if len(s.Interface) > 15 {
		errs = append(errs, fmt.Errorf("interface %q: longer than the 15 octets of a name", s.Interface))
	}
	if s.Local.IsValid() && s.Local.Is4() != s.Peer.Is4() {
		errs = append(errs, fmt.Errorf("local address %s is of the other family", s.Local))
	}
	for name, d := range map[string]time.Duration{"min_tx": s.MinTx, "min_rx": s.MinRx} {
		if d < MinInterval || d > MaxInterval {
			errs = append(errs, fmt.Errorf("%s %s: not from %s to %s", name, d, MinInterval, MaxInterval))
		}
	}
	s.MinTx, s.MinRx = s.MinTx.Truncate(time.Microsecond), s.MinRx.Truncate(time.Microsecond)
	if s.Multiplier == 0 {
		errs = append(errs, errors.New("multiplier 0: not from 1 to 255"))
	}
	if err := errors.Join(errs...); err != nil {
		return s, fmt.Errorf("peer %s: %w", s.Peer, err)
	}
	return s, nil
}

// normalizeAll also refuses what could not be told apart when packets come in.
func normalizeAll(set []Session) ([]Session, error) {
	if len(set) > MaxSessions {
		return nil, fmt.Errorf("%d sessions: at most %d", len(set), MaxSessions)
	}
	type from struct {
		peer netip.Addr
		link string
	}
	seen := map[from]bool{}
	out := make([]Session, 0, len(set))
	var errs []error
	for _, s := range set {
		s, err := s.normalize()
		if err == nil && seen[from{s.Peer, s.Interface}] {
			err = fmt.Errorf("peer %s on interface %q: given twice", s.Peer, s.Interface)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seen[from{s.Peer, s.Interface}] = true
		out = append(out, s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}
