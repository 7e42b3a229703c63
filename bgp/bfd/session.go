package bfd

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// session is a machine with its socket and its record. The engine's thread owns it.
type session struct {
	*machine
	want    Session
	ifindex int // of want.Interface; 0: none wanted, -1: it does not exist
	fd      int // -1: could not be opened yet
	port    uint16
	errno   unix.Errno // of the last send, to notice when it changes
	err     string     // why it cannot send
	deaf    string     // why its family cannot receive

	since    time.Time
	ups      uint64
	downs    uint64
	in, out  uint64
	bad      uint64
	lastDown string

	removing bool // not wanted any more: it goes when its AdminDown packets are out
	graced   bool // its detection was put off once since the last packet
}

// origin is what tells the sessions apart before the peer has learnt our discriminator.
type origin struct {
	peer    [16]byte
	ifindex int
}

func (s *session) origin() origin { return origin{peer: s.want.Peer.As16(), ifindex: s.ifindex} }

// open makes the socket if there is none.
func (s *session) open() {
	if s.fd >= 0 {
		return
	}
	if s.ifindex < 0 {
		s.err = fmt.Sprintf("interface %s does not exist", s.want.Interface)
		return
	}
	fd, port, err := openSender(s.want, s.ifindex, s.port)
	if errors.Is(err, unix.EADDRINUSE) {
		port = 0 // somebody has taken it meanwhile
	}
	s.fd, s.port, s.err, s.errno = fd, port, "", 0
	if err != nil {
		s.err = err.Error()
	}
}

func (s *session) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// send reports whether the record of the last error has changed.
func (s *session) send(b []byte) (news bool) {
	if s.fd < 0 {
		return false
	}
	errno := write(s.fd, b)
	if errno == unix.ECONNREFUSED { // what the peer said to an earlier packet; this one has not been sent
		errno = write(s.fd, b)
	}
	if errno == 0 {
		s.out++
	}
	if errno == s.errno {
		return false
	}
	s.errno, s.err = errno, ""
	if errno != 0 {
		s.err = "send: " + errno.Error()
	}
	if errno != 0 && errno != unix.ECONNREFUSED && errno != unix.EAGAIN {
		s.close() // the address or the interface may have gone: begin anew
	}
	return true
}

// write is raw for the reason that receiver.next gives.
func write(fd int, b []byte) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return errno
}

// moved records a change of state.
func (s *session) moved(from State, now time.Time, silence time.Duration) {
	s.since = now
	switch {
	case s.state == Up:
		s.ups++
	case from == Up:
		s.downs++
		why := s.diag.String()
		switch s.diag {
		case DetectionTimeExpired:
			why += fmt.Sprintf(": no packet for %s", silence)
		case NeighborSignaledDown:
			why += fmt.Sprintf(": it is %s, %q", s.remoteState, s.remoteDiag)
		}
		s.lastDown = fmt.Sprintf("%s (%s)", why, now.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
}

func (s *session) trouble() string {
	if s.deaf != "" {
		return s.deaf
	}
	return s.err
}

func (s *session) status() Status {
	return Status{
		Session: s.want, State: s.state, RemoteState: s.remoteState, Diagnostic: s.diag, RemoteDiagnostic: s.remoteDiag,
		LocalDiscriminator: s.discr, RemoteDiscriminator: s.remoteDiscr, TxInterval: s.txInterval(), RxInterval: s.rxInterval(),
		DetectionTime: s.detectionTime(), Since: s.since.Round(0), Ups: s.ups, Downs: s.downs,
		PacketsIn: s.in, PacketsOut: s.out, PacketsDiscarded: s.bad, LastDown: s.lastDown, Error: s.trouble(),
	}
}
