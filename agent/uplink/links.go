package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// LinkEvents are called when the link to a peer loses its carrier, is set down or deleted, and when it can be used again. They
// are called one at a time from Run and must return soon; nil ones are skipped.
type LinkEvents struct {
	Down func(peer netip.Addr, link string)
	Up   func(peer netip.Addr, link string)
}

// Links tells of the links to the peers within milliseconds.
type Links struct {
	events LinkEvents
	log    *slog.Logger
	home   *os.File // the network namespace
	socket *nl.NetlinkSocket
	wake   chan struct{} // of size 1: the peers changed

	mu    sync.Mutex // guards peers
	peers []netip.Addr

	// Owned by Run.
	linkOf map[netip.Addr]string // as found last: a link that is down has no routes to look a peer up by
	up     map[string]bool
}

// NewLinks subscribes to the links of the calling thread's network namespace, and finds those of the peers. What happens to
// them from then on is told once Run runs.
func NewLinks(peers []netip.Addr, events LinkEvents, log *slog.Logger) (*Links, error) {
	home, err := rtnl.ThreadNamespace()
	if err != nil {
		return nil, err
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		home.Close()
		return nil, fmt.Errorf("subscribe to link events: %w", err)
	}
	l := &Links{
		events: events, log: log, home: home, socket: socket, wake: make(chan struct{}, 1), peers: peers,
		linkOf: map[netip.Addr]string{}, up: map[string]bool{},
	}
	l.find(peers)
	return l, nil
}

// find notes the links of those peers whose link can be found now.
func (l *Links) find(peers []netip.Addr) {
	for _, p := range peers {
		if zone := p.Zone(); zone != "" {
			l.linkOf[p] = zone
		} else if link, err := linkTo(p); err == nil {
			l.linkOf[p] = link.Attrs().Name
		}
	}
}

// SetPeers changes the peers whose links matter.
func (l *Links) SetPeers(peers []netip.Addr) {
	l.mu.Lock()
	l.peers = peers
	l.mu.Unlock()
	tell(l.wake)
}

// linkChange is what an event says of one link.
type linkChange struct {
	name string
	up   bool
}

// Close releases what NewLinks opened, after Run has returned, or instead of Run.
func (l *Links) Close() error {
	l.socket.Close()
	return l.home.Close()
}

// Run tells of changes until ctx ends; links that are down at the start are told of too.
func (l *Links) Run(ctx context.Context) error {
	changes, again, lost, failed := make(chan linkChange), make(chan struct{}, 1), make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	reader.Go(func() { failed <- l.read(ctx, changes, again, lost) })
	defer reader.Wait()
	defer l.socket.Close()
	defer cancel()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for look, anew := true, true; ; {
		if look {
			l.look(anew)
		}
		look, anew = true, false
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case c := <-changes:
			if look = l.concerns(c); !l.outdated(c) {
				l.change(c)
			}
		case <-again:
		case <-l.wake:
		case <-lost:
			anew = true
		case <-tick.C:
			anew = true
		}
	}
}

// concerns reports whether a change can have to do with a peer: a container brings half a dozen of them, and one look takes
// several requests for each peer.
func (l *Links) concerns(c linkChange) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.links(), c.name) || c.up && len(l.linkOf) < len(l.peers)
}

// outdated reports whether a link that is down is said to be up by an event of before it went down: a look of its first moments as a
// peer's link saw the state that events are still to tell of.
func (l *Links) outdated(c linkChange) bool {
	if was, known := l.up[c.name]; !c.up || !known || was {
		return false
	}
	up := false
	err := rtnl.Within(int(l.home.Fd()), func() error {
		link, err := netlink.LinkByName(c.name)
		up = err == nil && running(link.Attrs().RawFlags)
		return nil
	})
	return err == nil && !up
}

// read passes on the changes of links, and asks for another look where addresses changed or events were lost.
func (l *Links) read(ctx context.Context, changes chan<- linkChange, again, lost chan<- struct{}) error {
	for {
		messages, _, err := l.socket.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.ENOBUFS) {
			tell(lost)
		} else if err != nil {
			return fmt.Errorf("read link events: %w", err)
		}
		look := false
		for _, m := range messages {
			c, ok := parseLink(rtnl.Message{Type: m.Header.Type, Payload: m.Data})
			if !ok {
				look = true
				continue
			}
			select {
			case changes <- c:
			case <-ctx.Done():
				return nil
			}
		}
		if look {
			tell(again)
		}
	}
}

// tell wakes who waits at a channel of size 1.
func tell(who chan<- struct{}) {
	select {
	case who <- struct{}{}:
	default: // it will look anyway
	}
}

func parseLink(m rtnl.Message) (linkChange, bool) {
	if m.Type != unix.RTM_NEWLINK && m.Type != unix.RTM_DELLINK || len(m.Payload) < unix.SizeofIfInfomsg {
		return linkChange{}, false
	}
	var c linkChange
	rtnl.Attributes(m.Payload[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		if typ == unix.IFLA_IFNAME {
			c.name = rtnl.CString(v)
		}
	})
	c.up = m.Type == unix.RTM_NEWLINK && running(nl.DeserializeIfInfomsg(m.Payload).Flags)
	return c, true
}

func running(flags uint32) bool {
	const usable = unix.IFF_UP | unix.IFF_RUNNING
	return flags&usable == usable
}

// look finds the links of the peers, and their state where no event told it, or of all anew. Of a link that events tell of, the
// state now may be later than what is still to be read of it: it would be told twice over.
func (l *Links) look(anew bool) {
	l.mu.Lock()
	peers := l.peers
	l.mu.Unlock()
	maps.DeleteFunc(l.linkOf, func(a netip.Addr, _ string) bool { return !slices.Contains(peers, a) })
	err := rtnl.Within(int(l.home.Fd()), func() error {
		l.find(peers)
		for _, name := range l.links() {
			if _, known := l.up[name]; known && !anew {
				continue
			}
			link, err := netlink.LinkByName(name)
			l.change(linkChange{name: name, up: err == nil && running(link.Attrs().RawFlags)})
		}
		return nil
	})
	if err != nil {
		l.log.Error("links not looked at", "err", err)
	}
	maps.DeleteFunc(l.up, func(name string, _ bool) bool { return !slices.Contains(l.links(), name) })
}

// links are the names of those that peers are on, sorted.
func (l *Links) links() []string {
	return slices.Compact(slices.Sorted(maps.Values(l.linkOf)))
}

// change tells of a link that is not as it was. One that is up when it is first seen is no news.
func (l *Links) change(c linkChange) {
	was, known := l.up[c.name]
	if !known {
		was = true
	}
	if !slices.Contains(l.links(), c.name) {
		return
	}
	l.up[c.name] = c.up
	if was == c.up {
		return
	}
	tell, word := l.events.Down, "down"
	if c.up {
		tell, word = l.events.Up, "up"
	}
	for _, p := range slices.SortedFunc(maps.Keys(l.linkOf), netip.Addr.Compare) {
		if l.linkOf[p] != c.name {
			continue
		}
		l.log.Info("link to a peer is "+word, "peer", p, "link", c.name)
		if tell != nil {
			tell(p, c.name)
		}
	}
}
