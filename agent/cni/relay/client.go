package relay

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
)

var (
	// ErrDown says that no agent answers: no socket, nobody listening, or it went away before it had answered.
	ErrDown = errors.New("no agent")
	// ErrTimeout says that the agent took longer than the request's patience.
	ErrTimeout = errors.New("no answer in time")
)

// Call sends the request and waits for the response until the request's patience is over. The errors wrap ErrDown
// and ErrTimeout; whatever is neither will not get better by waiting.
func Call(socket string, req *Request) (Response, error) {
	frame, err := req.Encode()
	if err != nil {
		return Response{}, err
	}
	// Package net would start the poller and its goroutines for this one connection.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return Response{}, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	c := conn{fd: fd, deadline: time.Now().Add(req.Patience)}
	if err := c.connect(socket); err != nil {
		return Response{}, err
	}
	if _, err := c.Write(frame); err != nil {
		return Response{}, err
	}
	resp, err := ReadResponse(&c)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = down("the agent closed the connection")
	}
	return resp, err
}

// conn is a blocking unix stream socket with a deadline for all it does.
type conn struct {
	fd       int
	deadline time.Time
}

func (c *conn) connect(socket string) error {
	_, err := c.do(syscall.SO_SNDTIMEO, func() (int, error) {
		return 0, syscall.Connect(c.fd, &syscall.SockaddrUnix{Name: socket})
	})
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return down(err.Error())
	case err != nil:
		return err
	}
	return c.verify()
}

// verify refuses a listener that is neither root nor ourselves: it would see, and answer for, every container.
func (c *conn) verify() error {
	cred, err := syscall.GetsockoptUcred(c.fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("peer credentials", err)
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return errors.New("the listener belongs to user " + strconv.Itoa(int(cred.Uid)) + ", want root")
	}
	return nil
}

func (c *conn) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		// MSG_NOSIGNAL: an agent that died in between is an error here, no SIGPIPE.
		n, err := c.do(syscall.SO_SNDTIMEO, func() (int, error) {
			return syscall.SendmsgN(c.fd, b[done:], nil, nil, syscall.MSG_NOSIGNAL)
		})
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			err = down(err.Error())
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.do(syscall.SO_RCVTIMEO, func() (int, error) { return syscall.Read(c.fd, b) })
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return 0, down(err.Error())
	case err != nil:
		return 0, err
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// do repeats a system call that a signal interrupted, with what is left of the time as the socket's own timeout.
func (c *conn) do(option int, call func() (int, error)) (int, error) {
	for {
		left := time.Until(c.deadline)
		if left <= 0 {
			return 0, ErrTimeout
		}
		tv := syscall.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, option, &tv); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
		n, err := call()
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return 0, ErrTimeout
		default:
			return max(n, 0), err
		}
	}
}

func down(why string) error { return &wrapped{ErrDown, why} }

// wrapped is fmt.Errorf("%w: %s") without the cost of fmt.
type wrapped struct {
	kind error
	why  string
}

func (w *wrapped) Error() string { return w.kind.Error() + ": " + w.why }
func (w *wrapped) Unwrap() error { return w.kind }
