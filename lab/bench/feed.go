package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// feed is a router that announces many prefixes to one receiver, on a cable in namespaces of their own. The same BIRD is the
// sender for all receivers.
type feed struct {
	dir              string
	sender, receiver netns.NS
	prefixes         []netip.Prefix
}

// What the sender and the receiver are, on the cable and in BGP.
const (
	senderASN   = 64512
	receiverASN = 4200000001
	feedSpace   = "11.0.0.0/12"
)

var (
	senderAddr   = netip.MustParseAddr("172.31.255.0")
	receiverAddr = netip.MustParseAddr("172.31.255.1")
)

// inFeed sets a sender and a namespace for the receiver up, runs do and removes everything that lives in them.
func inFeed(ctx context.Context, n int, do func(*feed) error) (err error) {
	f := &feed{sender: netns.NS{Name: "hfbench-sender"}, receiver: netns.NS{Name: "hfbench-receiver"}}
	base := binary.BigEndian.Uint32(netip.MustParsePrefix(feedSpace).Addr().AsSlice())
	for i := range n {
		a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+uint32(i))))
		f.prefixes = append(f.prefixes, netip.PrefixFrom(a, 32))
	}
	if f.dir, err = os.MkdirTemp("/run", "hfbench"); err != nil { // short: unix sockets live below it
		return fmt.Errorf("feed: %w", err)
	}
	defer func() { err = errors.Join(err, f.remove(context.WithoutCancel(ctx))) }()
	if err := os.Chmod(f.dir, 0o755); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	for _, ns := range []netns.NS{f.sender, f.receiver} {
		if _, err := netns.Create(ns.Name); err != nil {
			return err
		}
	}
	if err := f.receiver.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	cable := func(ns netns.NS, a netip.Addr) netns.End {
		return netns.End{NS: ns, Link: "feed", Addresses: []string{a.String() + "/31"}}
	}
	if err := netns.Cable(cable(f.sender, senderAddr), cable(f.receiver, receiverAddr)); err != nil {
		return err
	}
	node := f.node("sender", f.sender, senderASN, senderAddr, tor.Neighbor{Name: "receiver", Address: receiverAddr, ASN: receiverASN, Passive: true})
	node.Networks = f.prefixes
	if err := f.router(ctx, tor.BIRD, node); err != nil {
		return err
	}
	return do(f)
}

func (f *feed) node(name string, ns netns.NS, asn uint32, local netip.Addr, to tor.Neighbor) tor.Node {
	to.Link, to.Local = "feed", local
	return tor.Node{Name: name, NS: ns, Dir: filepath.Join(f.dir, name), ASN: asn, RouterID: local, Neighbors: []tor.Neighbor{to}}
}

func (f *feed) router(ctx context.Context, kind tor.Kind, n tor.Node) error {
	driver, err := tor.New(kind, tor.Options{})
	if err != nil {
		return err
	}
	if err := os.Mkdir(n.Dir, 0o755); err != nil {
		return fmt.Errorf("router %s: %w", n.Name, err)
	}
	_, err = driver.Start(ctx, n)
	return err
}

// processes are those of the receiver, or of both.
func (f *feed) processes(both bool) ([]daemon.Process, error) {
	paths := []string{f.receiver.Path()}
	if both {
		paths = append(paths, f.sender.Path())
	}
	return daemon.Find(daemon.InNamespace(paths))
}

func (f *feed) remove(ctx context.Context) error {
	procs, err := f.processes(true)
	errs := []error{err, daemon.End(ctx, func() ([]daemon.Process, error) { return f.processes(true) }, time.Second)}
	for _, p := range procs {
		tor.Forget(p)
	}
	return errors.Join(append(errs, f.sender.Delete(), f.receiver.Delete(), os.RemoveAll(f.dir))...)
}

// received is what a receiver needed for a table.
type received struct {
	took time.Duration // from the first UPDATE on the cable to the last route in the receiver's kernel
	cpu  time.Duration // of its processes, from their start
	mb   float64       // the most memory that they had
}

// receive starts a receiver and measures.
func (f *feed) receive(ctx context.Context, start func(context.Context) error) (r received, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var first, last time.Time
	arrived := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return f.receiver.Do(func() (err error) { first, err = firstUpdate(gctx); return err })
	})
	g.Go(func() error {
		defer close(arrived)
		return f.receiver.Do(func() (err error) { last, err = f.lastRoute(gctx); return err })
	})
	g.Go(func() error {
		if err := start(gctx); err != nil {
			return err
		}
		return f.alive(gctx, arrived)
	})
	if err := g.Wait(); err != nil {
		return r, err
	}
	r.took = last.Sub(first)
	procs, err := f.processes(false)
	if err != nil {
		return r, err
	}
	for _, p := range procs {
		peak, err := memoryMB(p.PID, "VmHWM:")
		if err != nil {
			return r, err
		}
		cpu, err := cpuTime(p.PID)
		if err != nil {
			return r, err
		}
		r.mb, r.cpu = r.mb+peak, r.cpu+cpu
	}
	return r, f.verify(ctx)
}

// cpuTime is what a process has used so far: the first field of proc_pid_schedstat of each of its threads.
func cpuTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(raw))[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// alive fails when the receiver ends before everything has arrived.
func (f *feed) alive(ctx context.Context, arrived <-chan struct{}) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-arrived:
			return nil
		case <-tick.C:
		}
		if procs, err := f.processes(false); err != nil || len(procs) == 0 {
			return errors.Join(err, errors.New("the receiver has ended"))
		}
	}
}

// firstUpdate waits for the first BGP UPDATE with routes that reaches the thread's namespace.
func firstUpdate(ctx context.Context) (time.Time, error) {
	const protocol = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return time.Time{}, fmt.Errorf("watch the feed: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return time.Time{}, fmt.Errorf("watch the feed: %w", err)
	}
	buf := make([]byte, 1<<16)
	for ctx.Err() == nil {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case err != nil:
			return time.Time{}, fmt.Errorf("watch the feed: %w", err)
		case hasUpdate(buf[:n]):
			return time.Now(), nil
		}
	}
	return time.Time{}, fmt.Errorf("no UPDATE came: %w", context.Cause(ctx))
}

// hasUpdate reports whether an IPv4 packet has the beginning of an UPDATE that is not an End-of-RIB (RFC 4271 section 4).
func hasUpdate(packet []byte) bool {
	if len(packet) < 20 || packet[9] != unix.IPPROTO_TCP || !bytes.Equal(packet[12:16], senderAddr.AsSlice()) {
		return false
	}
	marker := bytes.Repeat([]byte{0xff}, 16)
	const update, empty = 2, 23
	for rest := packet; ; {
		i := bytes.Index(rest, marker)
		if i < 0 || len(rest) < i+19 {
			return false
		}
		if rest[i+18] == update && binary.BigEndian.Uint16(rest[i+16:]) > empty {
			return true
		}
		rest = rest[i+19:]
	}
}

// lastRoute waits until the kernel of the thread's namespace has all prefixes. It looks for samples, which costs nothing
// however many routes there are, and counts when all of these are there.
func (f *feed) lastRoute(ctx context.Context) (time.Time, error) {
	before, err := countRoutes()
	if err != nil {
		return time.Time{}, err
	}
	const samples = 64
	var pending []netip.Prefix
	for i := len(f.prefixes) - 1; i >= 0; i -= max(1, len(f.prefixes)/samples) {
		pending = append(pending, f.prefixes[i])
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for len(pending) > 0 && hasRoute(pending[0]) {
			pending = pending[1:]
		}
		if len(pending) == 0 {
			n, err := countRoutes()
			if err != nil || n-before >= len(f.prefixes) {
				return time.Now(), err
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("the kernel did not get all routes: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func hasRoute(p netip.Prefix) bool {
	routes, err := netlink.RouteGetWithOptions(p.Addr().AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	return err == nil && len(routes) == 1 && routes[0].Dst != nil && routes[0].Dst.String() == p.String()
}

// countRoutes is the number of IPv4 routes in the main table of the thread's namespace, which is listed first.
func countRoutes() (int, error) {
	raw, err := os.ReadFile("/proc/thread-self/net/fib_triestat")
	if err != nil {
		return 0, fmt.Errorf("count routes: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "Prefixes:"); ok {
			return strconv.Atoi(strings.TrimSpace(rest))
		}
	}
	return 0, errors.New("count routes: fib_triestat has no number of prefixes")
}

// verify checks that the receiver's kernel has every prefix, by a full listing.
func (f *feed) verify(ctx context.Context) error {
	driver, err := tor.New(tor.BIRD, tor.Options{})
	if err != nil {
		return err
	}
	have, err := driver.Attach(tor.Node{Name: "receiver", NS: f.receiver}).KernelPrefixes(ctx, netip.MustParsePrefix(feedSpace))
	if err == nil && len(have) != len(f.prefixes) {
		err = fmt.Errorf("the receiver's kernel has %d of %d prefixes", len(have), len(f.prefixes))
	}
	return err
}
