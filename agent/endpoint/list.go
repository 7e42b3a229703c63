package endpoint

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Live is the host end of an endpoint.
type Live struct {
	HostLink string
	Alias    string       // empty if a crash came before it was set
	MTU      int          // bytes
	Addrs    []netip.Addr // the container's, sorted; none if a crash came before they were known here, or the link is down
}

// List returns our host ends in this namespace, without those in the graveyard.
func (w *Wirer) List(ctx context.Context) ([]Live, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := listLinks(w.list)
	if err != nil {
		return nil, err
	}
	var live []Live
	at := make(map[uint32]int) // place in live by link index
	for _, l := range all {
		if l.ours() && l.group != Graveyard {
			at[uint32(l.index)] = len(live)
			live = append(live, Live{HostLink: l.name, Alias: l.alias, MTU: l.mtu})
		}
	}
	if len(live) == 0 {
		return nil, nil
	}
	if err := listContainers(w.list, live, at); err != nil {
		return nil, err
	}
	return live, nil
}

// listContainers fills in the addresses that the permanent neighbours on the links name, all links in one listing.
func listContainers(conn *rtnl.Conn, live []Live, at map[uint32]int) error {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETNEIGH, 0)
	b.Neighbour(unix.AF_UNSPEC, 0, 0)
	reset := func() {
		for i := range live {
			live[i].Addrs = nil
		}
	}
	err := conn.Dump(&b, reset, func(m rtnl.Message) {
		index, a, ok := parsePermanent(m)
		if i, ours := at[index]; ok && ours {
			live[i].Addrs = append(live[i].Addrs, a)
		}
	})
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for i := range live {
		slices.SortFunc(live[i].Addrs, netip.Addr.Compare)
	}
	return nil
}

// parsePermanent reads an RTM_NEWNEIGH and reports whether it is a permanent entry.
func parsePermanent(m rtnl.Message) (index uint32, a netip.Addr, ok bool) {
	const indexAt, stateAt = 4, 8 // in struct ndmsg
	p := m.Payload
	if m.Type != unix.RTM_NEWNEIGH || len(p) < unix.SizeofNdMsg || binary.NativeEndian.Uint16(p[stateAt:])&unix.NUD_PERMANENT == 0 {
		return 0, netip.Addr{}, false
	}
	rtnl.Attributes(p[unix.SizeofNdMsg:], func(typ uint16, v []byte) {
		if typ == unix.NDA_DST {
			a = rtnl.Addr(v)
		}
	})
	return binary.NativeEndian.Uint32(p[indexAt:]), a, a.IsValid()
}
