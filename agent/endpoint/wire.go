package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Options of a Wirer. The zero value is usable.
type Options struct {
	Log *slog.Logger // nil discards
}

// Wirer wires containers to the network namespace it was made in. Its methods may be called from any goroutine.
type Wirer struct {
	log    *slog.Logger
	home   *os.File // the host's network namespace
	host   *rtnl.Conn
	list   *rtnl.Conn // for listings, which would keep an attach waiting
	graves *rtnl.Conn // for what is in the graveyard: the kernel answers when a grace period is over
	ipv6   bool       // the kernel has it

	mu      sync.Mutex    // guards dead
	dead    []retired     // those whose links are in the graveyard, or gone already
	deadSet chan struct{} // size 1: dead is not empty

	unforgotten map[unix.Errno]bool // failures to forget connections that were logged; Run's alone
}

// New returns a Wirer for the calling thread's network namespace.
func New(opts Options) (*Wirer, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	w := &Wirer{log: opts.Log, unforgotten: make(map[unix.Errno]bool), deadSet: make(chan struct{}, 1)}
	var err error
	if w.home, err = rtnl.ThreadNamespace(); err != nil {
		return nil, err
	}
	if w.host, err = rtnl.Open(); err != nil {
		return nil, errors.Join(err, w.home.Close())
	}
	if w.list, err = rtnl.Open(); err != nil {
		return nil, errors.Join(err, w.host.Close(), w.home.Close())
	}
	if w.graves, err = rtnl.Open(); err != nil {
		return nil, errors.Join(err, w.list.Close(), w.host.Close(), w.home.Close())
	}
	_, err = os.Stat("/proc/sys/net/ipv6")
	w.ipv6 = err == nil
	return w, nil
}

// Close releases the sockets. Endpoints stay as they are.
func (w *Wirer) Close() error {
	return errors.Join(w.graves.Close(), w.list.Close(), w.host.Close(), w.home.Close())
}

// Wire makes the endpoint, or nothing: on an error everything is undone. Once it returns, both ends carry packets. It
// takes about 0.8 ms, most of it the kernel making the pair. A host link of the same name that an attach left behind is
// replaced; one that belongs to another container, and any interface in the way in the container, is ErrLinkExists.
func (w *Wirer) Wire(ctx context.Context, s Spec) (Endpoint, error) {
	if err := s.validate(); err != nil {
		return Endpoint{}, err
	}
	if err := ctx.Err(); err != nil {
		return Endpoint{}, err
	}
	ns, err := w.openNetns(s.Netns)
	if err != nil {
		return Endpoint{}, err
	}
	defer ns.Close()
	e := s.endpoint()
	if err := w.wire(ctx, &e, ns); err != nil {
		return Endpoint{}, fmt.Errorf("wire %s to %s in %s: %w", s.HostLink, s.ContainerLink, s.Netns, err)
	}
	return e, nil
}

func (w *Wirer) wire(ctx context.Context, e *Endpoint, ns *os.File) (err error) {
	var undo undoStack
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.run())
		}
	}()

	inside, err := w.enter(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	pair, err := w.create(e, ns, inside)
	if err != nil {
		return err
	}
	undo.push(func() error { return w.remove(pair.index) })
	if err := ctx.Err(); err != nil {
		return err
	}
	e.MTU = pair.mtu
	if err := w.setupHost(e, pair.index); err != nil {
		return fmt.Errorf("host end: %w", err)
	}
	if err := setupContainer(inside, ns, e, pair.peer); err != nil {
		return fmt.Errorf("container end: %w", err)
	}
	if err := w.finishHost(ctx, e, pair.index); err != nil {
		return fmt.Errorf("host end: %w", err)
	}
	if err := awaitIPv6(ctx, inside, e); err != nil {
		return fmt.Errorf("container end: %w", err)
	}
	return nil
}

// enter opens a socket inside the container's namespace.
func (w *Wirer) enter(ns *os.File) (inside *rtnl.Conn, err error) {
	err = rtnl.Within(int(ns.Fd()), func() error {
		inside, err = rtnl.Open()
		return err
	})
	if err != nil && inside != nil {
		err = errors.Join(err, inside.Close())
	}
	return inside, err
}

// create makes the pair, with whatever is in its way out of it if that may go.
func (w *Wirer) create(e *Endpoint, ns *os.File, inside *rtnl.Conn) (link, error) {
	pair, err := w.createPair(e, ns)
	if !errors.Is(err, unix.EEXIST) {
		return pair, err
	}
	if err := w.makeWay(e, inside); err != nil {
		return link{}, err
	}
	if pair, err = w.createPair(e, ns); errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w in the container", ErrLinkExists)
	}
	return pair, err
}

// makeWay removes a host link of the same name left by a crash, or not yet reaped, unless it is another container's or
// the container has an interface that would be in the way all the same.
func (w *Wirer) makeWay(e *Endpoint, inside *rtnl.Conn) error {
	old, err := getLink(w.host, e.HostLink)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s: %w in the container", e.ContainerLink, ErrLinkExists)
	}
	if err != nil {
		return err
	}
	if err := mayReplace(old, e); err != nil {
		return err
	}
	in, err := getLink(inside, e.ContainerLink)
	if err == nil && (in.index != old.peer || in.peer != old.index) {
		return fmt.Errorf("%s: %w in the container", e.ContainerLink, ErrLinkExists)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	w.log.Info("removing a leftover host link", "link", e.HostLink, "alias", old.alias)
	return w.remove(old.index)
}

// mayReplace refuses to take a host link that belongs to somebody for a leftover.
func mayReplace(old link, e *Endpoint) error {
	if old.group != Graveyard && old.alias != "" && old.alias != e.Alias {
		return fmt.Errorf("%s: %w on the host and belongs to %q", e.HostLink, ErrLinkExists, old.alias)
	}
	return nil
}

// createPair makes both ends in one request, the container's end where it belongs, with its final name: moving a
// device between namespaces would cost an RCU grace period of some 20 ms. Neither end can be up yet, a veth refuses
// that without its peer. The host end is told nothing by name here: if the name is taken, it is somebody else's.
// Without a namespace, both ends are in the host's, and the pair is one to be offered.
func (w *Wirer) createPair(e *Endpoint, ns *os.File) (link, error) {
	var b rtnl.Batch
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.Link(0, 0, 0)
	pairEnd(&b, e.HostLink, e.HostMAC, e.MTU)
	var flags uint32 // of the container's end
	if ns == nil {
		b.Uint32(unix.IFLA_GROUP, Offered)
		flags = unix.IFF_NOARP
	}
	info := b.Nest(unix.IFLA_LINKINFO)
	b.Bytes(unix.IFLA_INFO_KIND, []byte("veth"))
	data := b.Nest(unix.IFLA_INFO_DATA)
	peer := b.NestLink(vethInfoPeer, flags, flags)
	pairEnd(&b, e.ContainerLink, e.ContainerMAC, e.MTU)
	if ns != nil {
		b.Uint32(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
	}
	b.EndNest(peer)
	b.EndNest(data)
	b.EndNest(info)
	requestLink(&b, e.HostLink)

	var pair link
	errs := w.host.Do(&b, func(_ int, m rtnl.Message) { pair, _ = parseLink(m) })
	if errs[0] != nil {
		return link{}, fmt.Errorf("create veth pair: %w", errs[0])
	}
	if errs[1] != nil {
		return link{}, fmt.Errorf("read back veth pair: %w", errs[1])
	}
	return pair, nil
}

func pairEnd(b *rtnl.Batch, name string, mac []byte, mtu int) {
	b.String(unix.IFLA_IFNAME, name)
	b.Bytes(unix.IFLA_ADDRESS, mac)
	// The default is a queue for each CPU the machine could have, each with its objects in sysfs. A veth has no lock
	// or queue discipline that more of them would relieve.
	b.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
	if mtu != 0 {
		b.Uint32(unix.IFLA_MTU, uint32(mtu))
	}
}

// undoStack holds what reverses the steps done so far.
type undoStack []func() error

func (u *undoStack) push(fn func() error) { *u = append(*u, fn) }

// run reverses the steps, the last one first.
func (u *undoStack) run() error {
	var errs []error
	for i := len(*u) - 1; i >= 0; i-- {
		if err := (*u)[i](); err != nil {
			errs = append(errs, fmt.Errorf("undo: %w", err))
		}
	}
	*u = nil
	return errors.Join(errs...)
}
