package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Peer is how the speaker presents itself.
type Peer struct {
	ASN       uint32
	RouterID  netip.Addr
	HoldTime  uint16   // seconds
	TwoOctets bool     // no capability of 4-octet AS numbers (RFC 6793): an "old" speaker
	Families  []uint16 // AFIs of unicast families with the multiprotocol capability; none: plain IPv4
	Restart   bool     // the graceful restart capability, as a helper
}

const asTrans = 23456 // RFC 6793

// Open is the OPEN message.
func (p Peer) Open() []byte {
	var caps []byte
	for _, afi := range p.Families {
		caps = append(caps, 1, 4, byte(afi>>8), byte(afi), 0, 1)
	}
	if !p.TwoOctets {
		caps = binary.BigEndian.AppendUint32(append(caps, 65, 4), p.ASN)
	}
	if p.Restart {
		caps = append(caps, 64, 2, 0, 0)
	}
	return p.openWith(caps)
}

// openWith is an OPEN with the given capabilities in one optional parameter.
func (p Peer) openWith(caps []byte) []byte {
	params := []byte{}
	if len(caps) > 0 {
		params = append([]byte{2, byte(len(caps))}, caps...)
	}
	return p.openRaw(byte(len(params)), params)
}

// openRaw is an OPEN with any optional parameters and any length of them.
func (p Peer) openRaw(length byte, params []byte) []byte {
	as := p.ASN
	if as > 0xffff {
		as = asTrans
	}
	body := binary.BigEndian.AppendUint16([]byte{4}, uint16(as))
	body = binary.BigEndian.AppendUint16(body, p.HoldTime)
	body = append(body, p.RouterID.AsSlice()...)
	return Message(Open, join(body, []byte{length}, params)...)
}

// Read reads one message.
func Read(r io.Reader) (kind byte, body []byte, err error) {
	head := make([]byte, headerLen)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(head[16:18])) - headerLen
	if n < 0 {
		return 0, nil, fmt.Errorf("a message of %d octets", n+headerLen)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return head[18], body, err
}

// handshake exchanges OPEN and KEEPALIVE.
func (p Peer) handshake(conn net.Conn, open []byte) error {
	if _, err := conn.Write(join(open, Message(Keepalive))); err != nil {
		return err
	}
	for _, want := range []byte{Open, Keepalive} {
		kind, body, err := Read(conn)
		if err != nil {
			return err
		}
		if kind == Notification {
			return fmt.Errorf("notification %x", body)
		}
		if kind != want {
			return fmt.Errorf("message of type %d, want %d", kind, want)
		}
	}
	return nil
}

// Server is a hostile router: it waits for hosts to open sessions and attacks in each.
type Server struct {
	Peer Peer
	// Attack returns what to do in the next session; nil is a good router's session.
	Attack func() *Item

	sessions  atomic.Int64
	attacks   atomic.Int64
	mu        sync.Mutex // guards what follows
	notified  [][]byte   // bodies of NOTIFICATIONs received
	lastError error
}

// Sessions counts the sessions that came up.
func (s *Server) Sessions() int64 { return s.sessions.Load() }

// Attacks counts the items sent.
func (s *Server) Attacks() int64 { return s.attacks.Load() }

// Answer is the last NOTIFICATION received, its code and subcode first, or nil, and why the last session ended.
func (s *Server) Answer() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.notified) == 0 {
		return nil, s.lastError
	}
	return s.notified[len(s.notified)-1], s.lastError
}

// Run serves connections, one after the other, until ctx ends. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a session to attack in: %w", err)
		}
		err = s.serve(ctx, conn)
		s.mu.Lock()
		s.lastError = err
		s.mu.Unlock()
	}
}

// serve holds one session until the other side ends it.
func (s *Server) serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var item *Item
	if s.Attack != nil {
		item = s.Attack()
	}
	if item != nil && item.Phase == AsOpen {
		s.attacks.Add(1)
		if _, err := conn.Write(item.Bytes); err != nil {
			return err
		}
		return s.listen(conn)
	}
	p := s.Peer
	if item != nil {
		p.TwoOctets = p.TwoOctets || item.TwoOctets
	}
	if err := p.handshake(conn, p.Open()); err != nil {
		return err
	}
	s.sessions.Add(1)
	if _, err := conn.Write(EndOfRIB()); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.listen(conn) }()
	err := s.speak(ctx, conn, item, done)
	conn.Close()
	return errors.Join(err, <-done)
}

// speak sends KEEPALIVEs, and the item when its time has come.
func (s *Server) speak(ctx context.Context, conn net.Conn, item *Item, done chan error) error {
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	strike := make(<-chan time.Time)
	if item != nil {
		strike = time.After(item.After)
	}
	for {
		out := Message(Keepalive)
		select {
		case <-ctx.Done():
			return nil
		case err := <-done:
			done <- err
			return nil
		case <-strike:
			s.attacks.Add(1)
			out = item.Bytes
		case <-alive.C:
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
	}
}

// listen reads until the other side closes, and keeps its NOTIFICATION.
func (s *Server) listen(conn net.Conn) error {
	for {
		kind, body, err := Read(conn)
		if err != nil {
			return err
		}
		if kind == Notification {
			s.mu.Lock()
			s.notified = append(s.notified, body)
			s.mu.Unlock()
		}
	}
}
