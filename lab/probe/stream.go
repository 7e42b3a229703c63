package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Streams are running streams of numbered UDP packets, one for each pair.
type Streams struct {
	opts    StreamOptions
	streams []*stream
	cancel  context.CancelFunc
	sender  sync.WaitGroup
	readers sync.WaitGroup
}

// stream is one pair's traffic.
type stream struct {
	pair   Pair
	tx, rx *net.UDPConn
	raw    syscall.RawConn // of tx
	to     unix.Sockaddr   // of rx

	mu         sync.Mutex  // guards all below
	sentAt     []time.Time // by sequence number
	marked     int         // the first sequence number that outages are counted from
	received   uint64
	duplicates uint64
	seen       bitmap
	last       time.Time
	gap        time.Duration
	gapAt      time.Time
}

const minPayload = 16 // sequence number and room to spare

// StartStream starts a stream for every pair; it runs until Stop. Packets go out every millisecond, as many as are due.
func StartStream(ctx context.Context, pairs []Pair, opts StreamOptions) (*Streams, error) {
	if opts.Rate == 0 {
		opts.Rate = 1000
	}
	if opts.Size == 0 {
		opts.Size = 64
	}
	if opts.Size < minPayload || opts.Rate < 0 {
		return nil, fmt.Errorf("stream: at least %d bytes of payload and a positive rate are needed", minPayload)
	}
	s := &Streams{opts: opts}
	for _, p := range pairs {
		st, err := open(p)
		if err != nil {
			s.close()
			return nil, err
		}
		s.streams = append(s.streams, st)
	}
	ctx, s.cancel = context.WithCancel(ctx)
	for _, st := range s.streams {
		s.readers.Go(st.read)
	}
	s.sender.Go(func() { s.send(ctx) })
	return s, nil
}

// open makes a pair's sockets. They stay in the namespaces they were made in.
func open(p Pair) (*stream, error) {
	if p.From.Addr.Is4() != p.To.Addr.Is4() {
		return nil, fmt.Errorf("stream from %s to %s: the addresses are of two families", p.From.Addr, p.To.Addr)
	}
	st := &stream{pair: p}
	err := p.To.NS.Do(func() (err error) {
		st.rx, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.To.Addr, 0)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stream to %s: %w", p.To.Name, err)
	}
	// Unconnected, so that no ICMP error of one packet becomes the error of the next.
	err = p.From.NS.Do(func() (err error) {
		st.tx, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.From.Addr, 0)))
		return err
	})
	if err != nil {
		st.rx.Close()
		return nil, fmt.Errorf("stream from %s: %w", p.From.Name, err)
	}
	if st.raw, err = st.tx.SyscallConn(); err != nil {
		st.tx.Close()
		st.rx.Close()
		return nil, fmt.Errorf("stream from %s: %w", p.From.Name, err)
	}
	st.to = sockaddr(st.rx.LocalAddr().(*net.UDPAddr).AddrPort())
	return st, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func (s *Streams) close() {
	for _, st := range s.streams {
		st.tx.Close()
		st.rx.Close()
	}
	s.readers.Wait()
}

func (s *Streams) send(ctx context.Context) {
	tick := time.NewTicker(pacePeriod)
	defer tick.Stop()
	pace := newPacer(s.opts.Rate, time.Now())
	buf := make([]byte, s.opts.Size)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range pace.due(time.Now()) {
			for _, st := range s.streams {
				st.send(buf)
			}
		}
	}
}

// send sends the next packet. What the kernel refuses to send counts as sent and so as lost: for want of a route, or because
// the packets that wait for a neighbour's address fill the socket's buffer. Waiting would hold up the other streams.
func (st *stream) send(buf []byte) {
	st.mu.Lock()
	binary.BigEndian.PutUint64(buf, uint64(len(st.sentAt)))
	st.sentAt = append(st.sentAt, time.Now())
	st.mu.Unlock()
	_ = st.raw.Write(func(fd uintptr) bool {
		_ = unix.Sendto(int(fd), buf, unix.MSG_DONTWAIT, st.to)
		return true // done, however it went
	})
}

func (st *stream) read() {
	buf := make([]byte, 65536)
	for {
		n, err := st.rx.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n >= minPayload {
			st.arrived(binary.BigEndian.Uint64(buf), time.Now())
		}
	}
}

func (st *stream) arrived(sequence uint64, at time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if sequence >= uint64(len(st.sentAt)) {
		return
	}
	if !st.seen.set(sequence) {
		st.duplicates++
		return
	}
	st.received++
	if gap := at.Sub(st.last); !st.last.IsZero() && gap > st.gap {
		st.gap, st.gapAt = gap, st.last
	}
	st.last = at
}

// Mark forgets the outages and gaps so far, so that the report tells of those from here on. Counts go on.
func (s *Streams) Mark() {
	for _, st := range s.streams {
		st.mu.Lock()
		st.gap, st.gapAt, st.marked = 0, time.Time{}, len(st.sentAt)
		st.mu.Unlock()
	}
}

// Flowing reports whether every stream's most recent packet arrived within the given time.
func (s *Streams) Flowing(within time.Duration) bool {
	now := time.Now()
	for _, st := range s.streams {
		st.mu.Lock()
		late := now.Sub(st.last) > within
		st.mu.Unlock()
		if late {
			return false
		}
	}
	return true
}

// Stop ends the sending, lets what is under way arrive, and reports.
func (s *Streams) Stop() []StreamReport {
	s.cancel()
	s.sender.Wait()
	s.drain()
	s.close()
	reports := make([]StreamReport, 0, len(s.streams))
	for _, st := range s.streams {
		reports = append(reports, st.report())
	}
	return reports
}

const (
	drainMost  = 500 * time.Millisecond // for the last packets to arrive
	drainQuiet = 50 * time.Millisecond  // without an arrival, nothing is under way
)

func (s *Streams) drain() {
	tick := time.NewTicker(pacePeriod)
	defer tick.Stop()
	deadline := time.Now().Add(drainMost)
	for now := range tick.C {
		busy := false
		for _, st := range s.streams {
			st.mu.Lock()
			busy = busy || (st.received < uint64(len(st.sentAt)) && now.Sub(st.last) < drainQuiet)
			st.mu.Unlock()
		}
		if !busy || now.After(deadline) {
			return
		}
	}
}

func (st *stream) report() StreamReport {
	st.mu.Lock()
	defer st.mu.Unlock()
	sent := uint64(len(st.sentAt))
	return StreamReport{
		Pair: st.pair, Sent: sent, Lost: sent - st.received, Duplicates: st.duplicates,
		Outage: st.outage(), LongestGap: st.gap, GapAt: st.gapAt,
	}
}

// outage is the longest time from the first of a run of lost packets to the next that arrived, or to the last sent.
func (st *stream) outage() (longest time.Duration) {
	first := -1 // of the run
	for i := st.marked; i < len(st.sentAt); i++ {
		if st.seen.has(uint64(i)) {
			first = -1
			continue
		}
		if first < 0 {
			first = i
		}
		longest = max(longest, st.sentAt[min(i+1, len(st.sentAt)-1)].Sub(st.sentAt[first]))
	}
	return longest
}
