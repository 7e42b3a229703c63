package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// retryListen is how long after a failure an address is tried again.
const retryListen = 2 * time.Second

// listener serves one address, or has failed to.
type listener struct {
	udp   []*net.UDPConn
	tcp   net.Listener
	err   error
	end   context.CancelFunc
	tasks sync.WaitGroup // all that was begun for it
}

// wanted are the addresses to listen on.
func (p *place) wanted(port uint16) []netip.AddrPort {
	if !p.Enabled {
		return nil
	}
	var all []netip.AddrPort
	for _, a := range p.host {
		all = append(all, netip.AddrPortFrom(a, port))
	}
	for _, a := range p.Listen {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// follow has the listeners be as wanted, and tells whether they are.
func (s *Server) follow(ctx context.Context) bool {
	wanted := s.place.Load().wanted(s.opts.Port)
	s.keep(wanted)
	all := true
	for _, at := range wanted {
		s.mu.Lock()
		had := s.listeners[at]
		s.mu.Unlock()
		if had != nil && had.err == nil {
			continue
		}
		l := s.listen(ctx, at)
		s.mu.Lock()
		s.listeners[at] = l
		s.mu.Unlock()
		all = all && l.err == nil
		switch {
		case l.err == nil:
			s.log.Info("answers DNS queries", "address", at)
		case had == nil || had.err.Error() != l.err.Error():
			s.log.Error("cannot answer DNS queries, goes on trying", "address", at, "err", l.err)
		}
	}
	return all
}

// keep ends the listeners that are not wanted.
func (s *Server) keep(wanted []netip.AddrPort) {
	s.mu.Lock()
	var gone []*listener
	for at, l := range s.listeners {
		if !slices.Contains(wanted, at) {
			gone = append(gone, l)
			delete(s.listeners, at)
		}
	}
	s.mu.Unlock()
	for _, l := range gone {
		l.close()
	}
}

// close ends what was begun for the listener.
func (l *listener) close() {
	if l.end != nil {
		l.end()
	}
	for _, c := range l.udp {
		c.Close()
	}
	if l.tcp != nil {
		l.tcp.Close()
	}
	l.tasks.Wait()
}

// readers is how many sockets share the datagrams of an address: the kernel spreads them by who sends them.
func readers() int { return min(runtime.GOMAXPROCS(0), 8) }

// receiveBuffer holds what comes while the readers wait for a processor, in bytes.
const receiveBuffer = 4 << 20

func (s *Server) listen(ctx context.Context, at netip.AddrPort) *listener {
	l := &listener{}
	config := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		if network == "tcp4" || network == "tcp6" {
			return nil
		}
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = prepare(int(fd)) }), err)
	}}
	family := "6"
	if at.Addr().Is4() {
		family = "4"
	}
	for range readers() {
		c, err := config.ListenPacket(ctx, "udp"+family, at.String())
		if err != nil {
			return l.failed(err)
		}
		l.udp = append(l.udp, c.(*net.UDPConn))
	}
	var err error
	if l.tcp, err = config.Listen(ctx, "tcp"+family, at.String()); err != nil {
		return l.failed(err)
	}
	ctx, l.end = context.WithCancel(ctx)
	for _, c := range l.udp {
		l.tasks.Go(func() { s.serveUDP(ctx, c, at.Addr(), &l.tasks) })
	}
	l.tasks.Go(func() { s.serveTCP(ctx, l.tcp, at.Addr(), &l.tasks) })
	return l
}

func (l *listener) failed(err error) *listener {
	l.close()
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		err = fmt.Errorf("%w: another DNS server has it; have that one listen on its own addresses only, not on all", syscall.EADDRINUSE)
	case errors.Is(err, unix.EACCES):
		err = fmt.Errorf("%w: the agent needs CAP_NET_BIND_SERVICE", syscall.EACCES)
	}
	return &listener{err: err}
}

func prepare(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	// Forced above the system's limit where that is allowed, which it need not be.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	return nil
}
