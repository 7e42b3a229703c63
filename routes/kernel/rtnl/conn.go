package rtnl

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Protocol marks what is ours in the kernel: routes and nexthops (rtm_protocol, nh_protocol) and addresses (IFA_PROTO).
// Nothing without it is ever touched. Its name is in /etc/iproute2/rt_protos.d.
const Protocol = 176

const (
	// perSend bounds one sendmsg. The kernel copies it whole, up to net.core.wmem_default (208 KiB, and no request is
	// larger than a kilobyte), and every error in it queues a reply that has to fit the receive buffer.
	perSend       = 128
	receiveBuffer = 4 << 20
	// receiveTimeout ends a wait for an answer that never comes; answers are ready when the send returns.
	receiveTimeout = 30 // seconds
)

// Conn is a request socket in one network namespace. Methods may be called concurrently; they wait for one another.
//
// Requests do not go through the library's Execute: it sends one at a time, and reads past the end of the message, a
// panic, when a dump ends with an error and the kernel's words for it.
type Conn struct {
	socket *nl.NetlinkSocket
	name   string // of its kind, for errors
	port   uint32

	mu     sync.Mutex // guards all below, and one exchange
	seq    uint32
	closed bool
}

// Open opens a socket in the calling thread's network namespace; the Conn stays there whatever thread uses it.
func Open() (*Conn, error) { return open(unix.NETLINK_ROUTE, "rtnetlink") }

// OpenNetfilter is Open for requests to netfilter (nfnetlink), whose headers are Batch.Netfilter's.
func OpenNetfilter() (*Conn, error) { return open(unix.NETLINK_NETFILTER, "nfnetlink") }

func open(protocol int, name string) (*Conn, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), protocol)
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", name, err)
	}
	c := &Conn{socket: socket, name: name}
	if err := c.setup(); err != nil {
		socket.Close()
		return nil, fmt.Errorf("set up %s socket: %w", name, err)
	}
	return c, nil
}

func (c *Conn) setup() (err error) {
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := unix.SetsockoptInt(c.socket.GetFd(), unix.SOL_NETLINK, option, 1); err != nil {
			return err
		}
	}
	if err := ReceiveBuffer(c.socket, receiveBuffer); err != nil {
		return err
	}
	if err := c.socket.SetReceiveTimeout(&unix.Timeval{Sec: receiveTimeout}); err != nil {
		return err
	}
	c.port, err = c.socket.GetPid()
	return err
}

// ReceiveBuffer sets the size of a socket's receive buffer, without CAP_NET_ADMIN in the initial namespace as far as
// net.core.rmem_max allows.
func ReceiveBuffer(s *nl.NetlinkSocket, size int) error {
	if err := s.SetReceiveBufferSize(size, true); err != nil {
		return s.SetReceiveBufferSize(size, false)
	}
	return nil
}

// Port is the socket's netlink address. Notifications of changes made through the Conn carry it.
func (c *Conn) Port() uint32 { return c.port }

// Close closes the socket. A later call fails.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.socket.Close()
	c.closed = true
	return nil
}

// Do sends the batch and returns one error for each request, nil for those the kernel accepted. Replies other than
// acknowledgements (NLM_F_ECHO, RTM_GET*) go to reply with the number of their request; reply may be nil.
func (c *Conn) Do(b *Batch, reply func(i int, m Message)) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := make([]error, b.Len())
	first := 0
	for requests := range slices.Chunk(b.requests, perSend) {
		err := c.exchange(requests, errs[first:], func(i int, m Message) {
			if reply != nil {
				reply(first+i, m)
			}
		})
		if err != nil {
			for i := first; i < len(errs); i++ {
				errs[i] = errors.Join(errs[i], err)
			}
			break
		}
		first += len(requests)
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

// Dump sends the batch's single request as a dump and gives each message to each. When the kernel says the dump was
// interrupted by a change, reset is called and everything comes again.
func (c *Conn) Dump(b *Batch, reset func(), each func(Message)) error {
	b.requests[0].Flags |= unix.NLM_F_DUMP
	return Uninterrupted(func() error {
		reset()
		return c.One(b, each)
	})
}

// dumpTries is how often an interrupted dump starts again. Under constant change the last one is as good as any.
const dumpTries = 10

// Uninterrupted calls list again while it fails because a change interrupted the kernel's dump.
func Uninterrupted(list func() error) error {
	for range dumpTries {
		if err := list(); !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return nil
}

// exchange sends the requests and reads until the last one is answered. Only that one asks for an acknowledgement:
// errors are reported unasked, and the kernel answers in order.
func (c *Conn) exchange(requests []*nl.NetlinkRequest, errs []error, reply func(int, Message)) error {
	base, last := c.seq+1, len(requests)-1
	c.seq += uint32(len(requests))
	requests[last].Flags |= unix.NLM_F_ACK
	var out []byte
	for i, r := range requests {
		r.Seq = base + uint32(i)
		out = append(out, r.Serialize()...)
	}
	if c.closed { // its descriptor may be somebody else's
		return fmt.Errorf("%s socket is closed", c.name)
	}
	// The library's Send takes a single request.
	if err := unix.Sendto(c.socket.GetFd(), out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to %s: %w", c.name, err)
	}
	interrupted := false
	for {
		messages, _, err := c.socket.Receive()
		if err != nil {
			return fmt.Errorf("receive from %s: %w", c.name, err)
		}
		for _, m := range messages {
			i := int(int32(m.Header.Seq - base))
			if i < 0 || i > last {
				continue // left over from an exchange that failed
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Header.Type != unix.NLMSG_ERROR && m.Header.Type != unix.NLMSG_DONE {
				reply(i, message(m))
				continue
			}
			if errs[i] = refusal(m); errs[i] == nil && interrupted {
				errs[i] = nl.ErrDumpInterrupted
			}
			if i == last {
				return nil
			}
		}
	}
}
