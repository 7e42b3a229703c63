package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// AllToAll is every ordered pair of endpoints of one family that are not on the same host. host names an endpoint's host.
func AllToAll(endpoints []Endpoint, host func(Endpoint) string) []Pair {
	var pairs []Pair
	for _, from := range endpoints {
		for _, to := range endpoints {
			if host(from) != host(to) && from.Addr.Is4() == to.Addr.Is4() {
				pairs = append(pairs, Pair{from, to})
			}
		}
	}
	return pairs
}

// Ping sends one echo request for every pair, from a raw socket in the namespace of its From, and waits for the replies. A
// request that is not answered is counted as lost, not repeated. The error is for what kept requests from being sent at all.
func Ping(ctx context.Context, pairs []Pair, opts PingOptions) (PingReport, error) {
	if opts.Timeout == 0 {
		opts.Timeout = 2 * time.Second
	}
	if opts.Rate == 0 {
		opts.Rate = 5000
	}
	p := &pinger{sources: map[Endpoint]*source{}, replies: make([]time.Duration, len(pairs))}
	defer p.close()
	for i, pair := range pairs {
		if err := p.add(i, pair); err != nil {
			return PingReport{}, err
		}
	}
	begin := time.Now()
	p.receive()
	err := p.send(ctx, pairs, opts.Rate)
	if err == nil {
		err = p.wait(ctx, opts.Timeout)
	}
	p.close()
	return p.report(pairs, time.Since(begin)), err
}

// pinger is one Ping.
type pinger struct {
	sources map[Endpoint]*source
	readers sync.WaitGroup
	refused error // see PingReport

	mu       sync.Mutex
	replies  []time.Duration // by pair; 0 while there is none
	sent     []time.Time     // by pair
	answered int
	all      chan struct{} // closed when every request is answered
}

// source is the socket of an endpoint. Its requests carry the number of the pair as payload.
type source struct {
	conn *icmp.PacketConn
	v6   bool
	id   int
}

func (p *pinger) add(i int, pair Pair) error {
	from := pair.From
	if from.Addr.Is4() != pair.To.Addr.Is4() {
		return fmt.Errorf("ping from %s to %s: the addresses are of two families", from.Addr, pair.To.Addr)
	}
	if p.sources[from] != nil {
		return nil
	}
	s := &source{v6: from.Addr.Is6(), id: os.Getpid() & 0xffff}
	network := "ip4:icmp"
	if s.v6 {
		network = "ip6:ipv6-icmp"
	}
	err := from.NS.Do(func() (err error) {
		if s.conn, err = icmp.ListenPacket(network, from.Addr.String()); err != nil {
			return err
		}
		return s.onlyReplies()
	})
	if err != nil {
		return fmt.Errorf("ping from %s (%s): %w", from.Name, from.Addr, err)
	}
	p.sources[from] = s
	return nil
}

// onlyReplies keeps others' requests and the kernel's errors from filling the socket's buffer.
func (s *source) onlyReplies() error {
	if s.v6 {
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeEchoReply)
		return s.conn.IPv6PacketConn().SetICMPFilter(&f)
	}
	var f ipv4.ICMPFilter
	f.SetAll(true)
	f.Accept(ipv4.ICMPTypeEchoReply)
	return s.conn.IPv4PacketConn().SetICMPFilter(&f)
}

func (p *pinger) close() {
	for _, s := range p.sources {
		_ = s.conn.Close() // a second time, when Ping ends early
	}
	p.readers.Wait()
}

// send paces the requests: a burst would overflow the queues of sockets and links, and measure those.
func (p *pinger) send(ctx context.Context, pairs []Pair, rate int) error {
	tick := time.NewTicker(pacePeriod)
	defer tick.Stop()
	pace := newPacer(rate, time.Now())
	for i := 0; i < len(pairs); {
		for range pace.due(time.Now()) {
			if i == len(pairs) {
				break
			}
			p.sendOne(i, pairs[i])
			i++
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ping: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

const (
	// sendPatience is how long a request may wait for room in the buffer of its socket, which requests fill that wait for a
	// neighbour's address.
	sendPatience = 10 * time.Millisecond
	// sendTries are more than one because a deadline that passes while this process waits for a processor fails a write that was
	// never tried.
	sendTries = 3
)

// packetWriter is what write needs of a socket.
type packetWriter interface {
	SetWriteDeadline(time.Time) error
	WriteTo([]byte, net.Addr) (int, error)
}

func write(w packetWriter, raw []byte, to net.Addr) (err error) {
	for range sendTries {
		_ = w.SetWriteDeadline(time.Now().Add(sendPatience))
		if _, err = w.WriteTo(raw, to); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

// sendOne sends the request of a pair. What the kernel refuses to send, for want of a route, never gets a reply and so is lost.
func (p *pinger) sendOne(i int, pair Pair) {
	s := p.sources[pair.From]
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if s.v6 {
		kind = ipv6.ICMPTypeEchoRequest
	}
	payload := binary.BigEndian.AppendUint64(nil, uint64(i))
	msg := icmp.Message{Type: kind, Body: &icmp.Echo{ID: s.id, Seq: i & 0xffff, Data: payload}}
	raw, err := msg.Marshal(nil) // the kernel fills the ICMPv6 checksum in
	if err != nil {
		return
	}
	p.mu.Lock()
	p.sent[i] = time.Now()
	p.mu.Unlock()
	if err := write(s.conn, raw, &net.IPAddr{IP: pair.To.Addr.AsSlice()}); err != nil && p.refused == nil {
		p.refused = err
	}
}

// receive starts a reader for every socket; they end when it is closed.
func (p *pinger) receive() {
	p.all = make(chan struct{})
	p.sent = make([]time.Time, len(p.replies))
	if len(p.replies) == 0 {
		close(p.all)
	}
	for _, s := range p.sources {
		p.readers.Go(func() { p.read(s) })
	}
}

func (p *pinger) read(s *source) {
	buf := make([]byte, 1500)
	for {
		n, _, err := s.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if i, ok := parseReply(buf[:n], s.v6, s.id); ok {
			p.reply(i, time.Now())
		}
	}
}

func parseReply(raw []byte, v6 bool, id int) (pair uint64, ok bool) {
	protocol, kind := 1, icmp.Type(ipv4.ICMPTypeEchoReply)
	if v6 {
		protocol, kind = 58, ipv6.ICMPTypeEchoReply
	}
	msg, err := icmp.ParseMessage(protocol, raw)
	if err != nil || msg.Type != kind {
		return 0, false
	}
	echo, ok := msg.Body.(*icmp.Echo)
	if !ok || echo.ID != id || len(echo.Data) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(echo.Data), true
}

func (p *pinger) reply(i uint64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i >= uint64(len(p.replies)) || p.replies[i] != 0 || p.sent[i].IsZero() {
		return
	}
	p.replies[i] = max(at.Sub(p.sent[i]), 1)
	if p.answered++; p.answered == len(p.replies) {
		close(p.all)
	}
}

func (p *pinger) wait(ctx context.Context, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.all:
	case <-timer.C:
	case <-ctx.Done():
		return fmt.Errorf("ping: %w", ctx.Err())
	}
	return nil
}

func (p *pinger) report(pairs []Pair, took time.Duration) PingReport {
	r := PingReport{Took: took, Refused: p.refused}
	var times []time.Duration
	for i, d := range p.replies {
		if p.sent[i].IsZero() {
			continue
		}
		r.Sent++
		if d == 0 {
			r.Lost++
			r.Failed = append(r.Failed, pairs[i])
			continue
		}
		times = append(times, d)
	}
	slices.Sort(times)
	if n := len(times); n > 0 {
		r.Median, r.P99 = times[n/2], times[min(n-1, n*99/100)]
	}
	return r
}
