package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
)

// maxQuery is the longest query that is understood, in bytes.
const maxQuery = 4096

// serveUDP answers datagrams until the socket is closed: from memory at once, what others have to answer on the side.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn, at netip.Addr, tasks *sync.WaitGroup) {
	in, out := make([]byte, maxQuery), make([]byte, udpSize)
	for {
		n, from, err := c.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of a datagram sent before
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		s.datagram(ctx, in[:n], from, at, out, tasks, func(reply []byte) {
			_, _ = c.WriteToUDPAddrPort(reply, from) // whoever it is asks again
		})
	}
}

func (s *Server) datagram(ctx context.Context, raw []byte, from netip.AddrPort, at netip.Addr, out []byte, tasks *sync.WaitGroup, send func([]byte)) {
	c, ok := s.admit(from.Addr(), at)
	if !ok {
		return
	}
	if reply, ok := s.quick(raw, c, out); ok {
		send(reply)
		return
	}
	q, done, ignore := s.accept(raw, c, false)
	if ignore {
		s.counters.ignored.Add(1)
		return
	}
	if !done {
		if ask := s.answer(q); ask != nil {
			if s.waiting.take(q.from) {
				tasks.Go(func() {
					defer s.waiting.give(q.from)
					ask(ctx, q)
					send(s.finish(q, nil))
				})
				return
			}
			s.busy(q)
		}
	}
	send(s.finish(q, out))
}
