package bfd

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func sample() packet {
	return packet{
		Diagnostic: NeighborSignaledDown, State: Init, Poll: true, ControlIndependent: true, Multiplier: 3, My: 0x01020304, Your: 0x05060708,
		MinTx: time.Second, MinRx: 300 * time.Millisecond,
	}
}

// wire is sample by RFC 5880, section 4.1.
var wire = []byte{
	0x23, 0xa8, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8,
	0x00, 0x0f, 0x42, 0x40, 0x00, 0x04, 0x93, 0xe0, 0, 0, 0, 0,
}

func TestPacket(t *testing.T) {
	p := sample()
	got := make([]byte, packetLen)
	p.encode(got)
	if !bytes.Equal(got, wire) {
		t.Errorf("encoded % x, want % x", got, wire)
	}
	var back packet
	if err := back.decode(wire); err != nil || back != p {
		t.Errorf("decoded %+v, %v", back, err)
	}
	if err := back.decode(append(bytes.Clone(wire), "padding"...)); err != nil || back != p {
		t.Errorf("with octets behind it: %+v, %v", back, err)
	}
}

// TestInvalidPackets goes through the checks of RFC 5880, section 6.8.6, that need no session.
func TestInvalidPackets(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"empty":                    {func([]byte) []byte { return nil }, errShort},
		"truncated":                {func(b []byte) []byte { return b[:23] }, errShort},
		"version 0":                {func(b []byte) []byte { b[0] &= 0x1f; return b }, errVersion},
		"version 2":                {func(b []byte) []byte { b[0] = 2<<5 | b[0]&0x1f; return b }, errVersion},
		"length 23":                {func(b []byte) []byte { b[3] = 23; return b }, errLength},
		"longer than the datagram": {func(b []byte) []byte { b[3] = 25; return b }, errLength},
		"no room for authentication": {func(b []byte) []byte {
			b[1] |= bitAuthentication
			return b
		}, errLength},
		"authentication": {func(b []byte) []byte {
			b[1] |= bitAuthentication
			b[3] = 26
			return append(b, 1, 2)
		}, errAuthentication},
		"multiplier 0":          {func(b []byte) []byte { b[2] = 0; return b }, errMultiplier},
		"multipoint":            {func(b []byte) []byte { b[1] |= bitMultipoint; return b }, errMultipoint},
		"my discriminator 0":    {func(b []byte) []byte { copy(b[4:8], make([]byte, 4)); return b }, errDiscriminator},
		"your 0 in state Init":  {func(b []byte) []byte { copy(b[8:12], make([]byte, 4)); return b }, errYourZero},
		"your 0 in state Up":    {func(b []byte) []byte { copy(b[8:12], make([]byte, 4)); b[1] |= 0xc0; return b }, errYourZero},
		"your 0 in state Down":  {func(b []byte) []byte { copy(b[8:12], make([]byte, 4)); b[1] = 0x40; return b }, nil},
		"your 0 in AdminDown":   {func(b []byte) []byte { copy(b[8:12], make([]byte, 4)); b[1] = 0; return b }, nil},
		"an unknown diagnostic": {func(b []byte) []byte { b[0] |= 0x1f; return b }, nil},
	} {
		var p packet
		if err := p.decode(c.change(bytes.Clone(wire))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestStateNames(t *testing.T) {
	for _, s := range []State{AdminDown, Down, Init, Up} {
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back State
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
	var s State
	if err := s.UnmarshalText([]byte("up")); err == nil {
		t.Error("up is taken for Up")
	}
}

// FuzzDecode: whatever is accepted obeys the RFC and is encoded to what it was, but for the bits we do not send.
func FuzzDecode(f *testing.F) {
	f.Add(wire)
	f.Add(wire[:23])
	f.Add(append(bytes.Clone(wire), 0, 1, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p packet
		if p.decode(b) != nil {
			return
		}
		if len(b) < packetLen || b[0]>>5 != version || int(b[3]) > len(b) || p.Multiplier == 0 || p.My == 0 || p.Your == 0 && p.State > Down {
			t.Fatalf("% x is accepted: %+v", b, p)
		}
		again := make([]byte, packetLen)
		p.encode(again)
		again[3] = b[3]
		if !bytes.Equal(again, b[:packetLen]) {
			t.Errorf("% x became % x", b[:packetLen], again)
		}
	})
}
