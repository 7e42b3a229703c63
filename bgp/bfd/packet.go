package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	version   = 1
	packetLen = 24 // without authentication
	maxMicros = 1<<32 - 1
)

// Bits of the second octet, below the state.
const (
	bitPoll = 1 << (5 - iota)
	bitFinal
	bitControlIndependent
	bitAuthentication
	bitDemand
	bitMultipoint
)

// packet is a BFD control packet (RFC 5880, section 4.1) without authentication. Intervals have whole microseconds.
type packet struct {
	Diagnostic         Diagnostic
	State              State
	Poll               bool
	Final              bool
	ControlIndependent bool // the sender's BFD does not share fate with its control plane
	Demand             bool
	Multiplier         uint8
	My, Your           uint32 // discriminators
	MinTx              time.Duration
	MinRx              time.Duration
	MinEchoRx          time.Duration
}

// What makes a packet invalid without regard to any session (RFC 5880, section 6.8.6).
var (
	errShort          = errors.New("shorter than a control packet")
	errVersion        = errors.New("not version 1")
	errLength         = errors.New("length field does not fit the datagram")
	errMultiplier     = errors.New("detection multiplier is 0")
	errMultipoint     = errors.New("multipoint bit is set")
	errDiscriminator  = errors.New("my discriminator is 0")
	errYourZero       = errors.New("your discriminator is 0 in state Init or Up")
	errAuthentication = errors.New("authentication is in use, and none is configured")
)

// encode writes p into b, which has packetLen octets at least.
func (p *packet) encode(b []byte) {
	b = b[:packetLen]
	b[0] = version<<5 | uint8(p.Diagnostic)&0x1f
	b[1] = uint8(p.State) << 6
	for _, f := range [...]struct {
		set bool
		bit uint8
	}{{p.Poll, bitPoll}, {p.Final, bitFinal}, {p.ControlIndependent, bitControlIndependent}, {p.Demand, bitDemand}} {
		if f.set {
			b[1] |= f.bit
		}
	}
	b[2] = p.Multiplier
	b[3] = packetLen
	binary.BigEndian.PutUint32(b[4:], p.My)
	binary.BigEndian.PutUint32(b[8:], p.Your)
	binary.BigEndian.PutUint32(b[12:], micros(p.MinTx))
	binary.BigEndian.PutUint32(b[16:], micros(p.MinRx))
	binary.BigEndian.PutUint32(b[20:], micros(p.MinEchoRx))
}

func micros(d time.Duration) uint32 { return uint32(min(max(d/time.Microsecond, 0), maxMicros)) }

// decode reads a datagram and makes the checks that need no session. Octets behind the packet are ignored, as the RFC
// has it: the length field counts.
func (p *packet) decode(b []byte) error {
	if len(b) < packetLen {
		return errShort
	}
	if b[0]>>5 != version {
		return errVersion
	}
	length := int(b[3])
	authenticated := b[1]&bitAuthentication != 0
	if length < packetLen || authenticated && length < packetLen+2 || length > len(b) {
		return errLength
	}
	if b[2] == 0 {
		return errMultiplier
	}
	if b[1]&bitMultipoint != 0 {
		return errMultipoint
	}
	duration := func(at int) time.Duration {
		return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Microsecond
	}
	*p = packet{
		Diagnostic: Diagnostic(b[0] & 0x1f), State: State(b[1] >> 6),
		Poll: b[1]&bitPoll != 0, Final: b[1]&bitFinal != 0, ControlIndependent: b[1]&bitControlIndependent != 0, Demand: b[1]&bitDemand != 0,
		Multiplier: b[2], My: binary.BigEndian.Uint32(b[4:]), Your: binary.BigEndian.Uint32(b[8:]),
		MinTx: duration(12), MinRx: duration(16), MinEchoRx: duration(20),
	}
	if p.My == 0 {
		return errDiscriminator
	}
	if p.Your == 0 && p.State != Down && p.State != AdminDown {
		return errYourZero
	}
	if authenticated {
		return errAuthentication
	}
	return nil
}

// State is a session's state (RFC 5880, section 4.1).
type State uint8

// The states, by their numbers in packets.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

var stateNames = [...]string{"AdminDown", "Down", "Init", "Up"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText gives the RFC's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the RFC's name.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if name == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("no BFD state is named %q", text)
}

// Diagnostic is why a system last changed to Down or AdminDown (RFC 5880, section 4.1).
type Diagnostic uint8

// The diagnostics this implementation gives; others come from peers.
const (
	NoDiagnostic           Diagnostic = 0
	DetectionTimeExpired   Diagnostic = 1
	NeighborSignaledDown   Diagnostic = 3
	AdministrativelyDown   Diagnostic = 7
	lastKnownDiagnosticNum            = 8
)

var diagnosticNames = [...]string{
	"No Diagnostic", "Control Detection Time Expired", "Echo Function Failed", "Neighbor Signaled Session Down",
	"Forwarding Plane Reset", "Path Down", "Concatenated Path Down", "Administratively Down", "Reverse Concatenated Path Down",
}

func (d Diagnostic) String() string {
	if d <= lastKnownDiagnosticNum {
		return diagnosticNames[d]
	}
	return fmt.Sprintf("Diagnostic %d", uint8(d))
}
