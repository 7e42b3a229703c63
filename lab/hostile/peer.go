package hostile

import (
	"context"
	"encoding/binary"
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
	// Attack returns what to send next; nil is the session of a good router. It is asked in each connection, and again once
	// the item before was left without an answer: many malformed messages do not end a session.
	Attack func() *Item

	sessions atomic.Int64
	attacks  atomic.Int64
	mu       sync.Mutex // guards what follows
	last     *Item      // the one sent last
	answer   []byte

	pending *Item // owned by Run: not sent yet, for want of a session of its kind
}

const (
	// patience is how long an answer is waited for before the session is used for the next item.
	patience = 150 * time.Millisecond
	// openPatience is the same after an OPEN, for which a speaker may wait long.
	openPatience = time.Second
)

// Sessions counts the sessions that came up.
func (s *Server) Sessions() int64 { return s.sessions.Load() }

// Attacks counts the items sent.
func (s *Server) Attacks() int64 { return s.attacks.Load() }

// Last is the item sent last, and the body of the NOTIFICATION that was the answer, nil without one.
func (s *Server) Last() (*Item, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.answer
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
		s.serve(ctx, conn)
	}
}

func (s *Server) next() *Item {
	item := s.pending
	if s.pending = nil; item == nil && s.Attack != nil {
		item = s.Attack()
	}
	return item
}

func (s *Server) send(conn net.Conn, item *Item) error {
	s.attacks.Add(1)
	s.mu.Lock()
	s.last, s.answer = item, nil
	s.mu.Unlock()
	_, err := conn.Write(item.Bytes)
	return err
}

// serve holds one session until either side ends it. How that happens is the other side's matter to judge.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	item := s.next()
	if item != nil && item.Phase == AsOpen {
		if s.send(conn, item) == nil && conn.SetDeadline(time.Now().Add(openPatience)) == nil {
			s.listen(conn)
		}
		return
	}
	p := s.Peer
	if item != nil {
		p.TwoOctets = p.TwoOctets || item.TwoOctets
	}
	if p.handshake(conn, p.Open()) != nil {
		s.pending = item
		return
	}
	s.sessions.Add(1)
	if _, err := conn.Write(EndOfRIB()); err != nil {
		s.pending = item
		return
	}
	ended := make(chan struct{})
	go func() { s.listen(conn); close(ended) }()
	s.speak(ctx, conn, item, ended)
	conn.Close()
	<-ended
}

// speak sends KEEPALIVEs, and the items when their time has come.
func (s *Server) speak(ctx context.Context, conn net.Conn, item *Item, ended <-chan struct{}) {
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	var strike <-chan time.Time
	if item != nil {
		strike = time.After(item.After)
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-ended:
			return
		case <-alive.C:
			_, err = conn.Write(Message(Keepalive))
		case <-strike:
			err = s.send(conn, item)
			select {
			case <-ended:
				return
			case <-time.After(patience):
			}
			kind := item.TwoOctets
			if item, strike = s.next(), nil; item == nil {
				break
			}
			if item.Phase != Established || item.TwoOctets != kind {
				s.pending = item
				return
			}
			strike = time.After(item.After)
		}
		if err != nil {
			return
		}
	}
}

// listen reads until the end of the connection, and keeps the NOTIFICATION.
func (s *Server) listen(conn net.Conn) {
	for {
		kind, body, err := Read(conn)
		if err != nil {
			return
		}
		if kind == Notification {
			s.mu.Lock()
			s.answer = body
			s.mu.Unlock()
		}
	}
}
