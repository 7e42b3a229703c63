package endpoint

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Packets counts what has crossed each of our host ends, in both directions, by link name. It starts at 0 with the link.
func (w *Wirer) Packets(ctx context.Context) (map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var b rtnl.Batch
	b.Begin(unix.RTM_GETLINK, 0)
	b.Link(0, 0, 0)
	info := b.Nest(unix.IFLA_LINKINFO)
	b.Bytes(unix.IFLA_INFO_KIND, []byte("veth"))
	b.EndNest(info)
	counts := make(map[string]uint64)
	err := w.list.Dump(&b, func() { clear(counts) }, func(m rtnl.Message) {
		if l, ok := parseLink(m); ok && l.ours() && l.group != Graveyard {
			counts[l.name] = packets(m)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("count packets of container links: %w", err)
	}
	return counts, nil
}

// packets reads the counters in an RTM_NEWLINK that parseLink has accepted: the first two of struct rtnl_link_stats64 are
// packets received and sent.
func packets(m rtnl.Message) (n uint64) {
	const both = 16 // bytes
	rtnl.Attributes(m.Payload[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		if typ == unix.IFLA_STATS64 && len(v) >= both {
			n = binary.NativeEndian.Uint64(v) + binary.NativeEndian.Uint64(v[8:])
		}
	})
	return n
}
