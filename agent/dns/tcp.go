package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// How long a connection may do nothing, and how long one message may take to come or to go: whoever is slower holds a place for nothing.
const (
	idleTime    = 10 * time.Second
	messageTime = 2 * time.Second
)

// acceptPause is how long after a failure the next connection is waited for: files may be short for a moment.
const acceptPause = 50 * time.Millisecond

// serveTCP answers connections until l is closed.
func (s *Server) serveTCP(ctx context.Context, l net.Listener, at netip.Addr, tasks *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !s.conns.take(from) {
			s.counters.busy.Add(1)
			_ = c.(*net.TCPConn).SetLinger(0) // leaves nothing to be waited for
			c.Close()
			continue
		}
		tasks.Go(func() {
			defer s.conns.give(from)
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			s.converse(ctx, c, from, at)
		})
	}
}

// converse answers the queries of a connection, one after another (RFC 7766), until it ends or asks too much.
func (s *Server) converse(ctx context.Context, c net.Conn, from, at netip.Addr) {
	for {
		raw, err := readMessage(c)
		if err != nil {
			return
		}
		caller, ok := s.admit(from, at)
		if !ok {
			return
		}
		q, done, ignore := s.accept(raw, caller, true)
		if ignore {
			s.counters.ignored.Add(1)
			return
		}
		if !done {
			if ask := s.answer(q); ask != nil {
				if s.waiting.take(from) {
					ask(ctx, q)
					s.waiting.give(from)
				} else {
					s.busy(q)
				}
			}
		}
		if err := writeMessage(c, s.finish(q, nil)); err != nil {
			return
		}
	}
}

func readMessage(c net.Conn) ([]byte, error) {
	var length [2]byte
	if err := c.SetReadDeadline(time.Now().Add(idleTime)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, length[:1]); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(messageTime)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, length[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > maxQuery {
		return nil, errors.New("longer than any query")
	}
	raw := make([]byte, n)
	_, err := io.ReadFull(c, raw)
	return raw, err
}

func writeMessage(c net.Conn, m []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(messageTime)); err != nil {
		return err
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...))
	return err
}
