package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	readSize = 64 << 10
	// sendSize bounds one sendmsg: the kernel copies it whole, and every error in it queues a reply that has to fit
	// the receive buffer.
	sendSize = 32 << 10
	// receiveBuffer holds the replies to a whole sendmsg of failures, some 700 of a kilobyte each.
	receiveBuffer = 4 << 20
	// receiveTimeout ends a wait for an answer that never comes; answers are ready when the send returns.
	receiveTimeout = 30 // seconds
	// dumpTries is how often an interrupted dump starts again. Under constant change the last one is as good as any.
	dumpTries = 10
)

// Conn is a request socket in one network namespace. Requests are answered within the system call that sends them, so
// it blocks without a poller. Methods may be called concurrently; they wait for one another.
type Conn struct {
	mu   sync.Mutex // guards everything below, and one exchange
	fd   int
	port uint32
	seq  uint32
	read []byte
}

// Open opens a socket in the calling thread's network namespace; the Conn stays there whatever thread uses it.
func Open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	c := &Conn{fd: fd, read: make([]byte, readSize)}
	if err := c.setup(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up rtnetlink socket: %w", err)
	}
	return c, nil
}

func (c *Conn) setup() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, option, 1); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
		// Without CAP_NET_ADMIN in the initial namespace: as much as net.core.rmem_max allows.
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return err
		}
	}
	timeout := unix.Timeval{Sec: receiveTimeout}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	name, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	sa, ok := name.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("unexpected socket address %T", name)
	}
	c.port = sa.Pid
	return nil
}

// Port is the socket's netlink address. Notifications of changes made through the Conn carry it.
func (c *Conn) Port() uint32 { return c.port }

// Close closes the socket. A later call fails.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.fd
	c.fd = -1
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// Do sends the batch and returns one error for each request, nil for those the kernel accepted. Replies other than
// acknowledgements (NLM_F_ECHO, RTM_GET*) go to reply with the number of their request; reply may be nil.
func (c *Conn) Do(b *Batch, reply func(i int, m Message)) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.finish()
	errs := make([]error, b.Len())
	for first := 0; first < b.Len(); {
		next := b.chunk(first)
		if err := c.exchange(b, first, next, errs, reply); err != nil {
			for i := first; i < b.Len(); i++ {
				errs[i] = errors.Join(errs[i], err)
			}
			break
		}
		first = next
	}
	return errs
}

// One sends a batch of one request.
func (c *Conn) One(b *Batch, reply func(Message)) error {
	return c.Do(b, func(_ int, m Message) {
		if reply != nil {
			reply(m)
		}
	})[0]
}

// chunk returns the end of the run of requests starting at first that fits one sendmsg.
func (b *Batch) chunk(first int) int {
	next := first + 1
	for next < b.Len() && b.end(next)-b.starts[first] <= sendSize {
		next++
	}
	return next
}

func (b *Batch) end(i int) int {
	if i+1 < len(b.starts) {
		return b.starts[i+1]
	}
	return len(b.buf)
}

// exchange sends requests [first, next) and reads until the last one is answered. Only that one asks for an
// acknowledgement: errors are reported unasked, and the kernel answers in order.
func (c *Conn) exchange(b *Batch, first, next int, errs []error, reply func(int, Message)) error {
	base := c.seq + 1
	c.seq += uint32(next - first)
	for i := first; i < next; i++ {
		header := b.buf[b.starts[i]:]
		binary.NativeEndian.PutUint32(header[8:], base+uint32(i-first))
		if i == next-1 {
			flags := binary.NativeEndian.Uint16(header[6:])
			binary.NativeEndian.PutUint16(header[6:], flags|unix.NLM_F_ACK)
		}
	}
	if err := c.send(b.buf[b.starts[first]:b.end(next-1)]); err != nil {
		return err
	}
	for done := false; !done; {
		buf, err := c.receive()
		if err != nil {
			return err
		}
		Messages(buf, func(m Message) {
			i := first + int(int32(m.Seq-base))
			switch {
			case i < first || i >= next: // left over from an exchange that failed
			case m.Type == unix.NLMSG_ERROR:
				errs[i] = refusal(m)
				done = done || i == next-1
			case reply != nil:
				reply(i, m)
			}
		})
	}
	return nil
}

// Dump sends the batch's single request as a dump and gives each message to each. When the kernel says the dump was
// interrupted by a change, reset is called and everything comes again.
func (c *Conn) Dump(b *Batch, reset func(), each func(Message)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.finish()
	for try := 1; ; try++ {
		reset()
		interrupted, err := c.dump(b, each)
		if err != nil || !interrupted || try == dumpTries {
			return err
		}
	}
}

func (c *Conn) dump(b *Batch, each func(Message)) (interrupted bool, err error) {
	c.seq++
	flags := binary.NativeEndian.Uint16(b.buf[6:])
	binary.NativeEndian.PutUint16(b.buf[6:], flags|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b.buf[8:], c.seq)
	if err := c.send(b.buf); err != nil {
		return false, err
	}
	for done := false; !done; {
		buf, rerr := c.receive()
		if rerr != nil {
			return false, rerr
		}
		Messages(buf, func(m Message) {
			if m.Seq != c.seq {
				return
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done, err = true, refusal(m)
			default:
				each(m)
			}
		})
	}
	return interrupted, err
}

func (c *Conn) send(p []byte) error {
	if c.fd < 0 {
		return errors.New("rtnetlink socket is closed")
	}
	for {
		err := unix.Sendto(c.fd, p, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send to rtnetlink: %w", err)
		}
	}
}

func (c *Conn) receive() ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.read, 0)
		if err == nil {
			return c.read[:n], nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("receive from rtnetlink: %w", err)
		}
	}
}
