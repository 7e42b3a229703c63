package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// object is a nexthop as the kernel lists it.
type object struct {
	protocol uint8
	onlink   bool
	index    int
	gateway  netip.Addr
	group    []uint32 // members, sorted; nil: not a group
}

func (h *hops) dump() (map[uint32]object, error) {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETNEXTHOP, 0)
	b.NextHop(unix.AF_UNSPEC, 0, 0, 0)
	objects := make(map[uint32]object)
	err := h.conn.Dump(&b, func() { clear(objects) }, func(m rtnl.Message) {
		if id, o, ok := parseNextHop(m); ok {
			objects[id] = o
		}
	})
	return objects, err
}

func parseNextHop(m rtnl.Message) (id uint32, o object, ok bool) {
	p := m.Payload
	if m.Type != unix.RTM_NEWNEXTHOP && m.Type != unix.RTM_DELNEXTHOP || len(p) < unix.SizeofNhmsg {
		return 0, o, false
	}
	o.protocol = p[2]
	o.onlink = binary.NativeEndian.Uint32(p[4:])&unix.RTNH_F_ONLINK != 0
	rtnl.Attributes(p[unix.SizeofNhmsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.NHA_ID:
			id = rtnl.Uint32(v)
		case unix.NHA_OIF:
			o.index = int(rtnl.Uint32(v))
		case unix.NHA_GATEWAY:
			o.gateway = rtnl.Addr(v)
		case unix.NHA_GROUP:
			o.group = []uint32{}
			for ; len(v) >= groupEntrySize; v = v[groupEntrySize:] {
				o.group = append(o.group, rtnl.Uint32(v))
			}
			slices.Sort(o.group)
		}
	})
	return id, o, id != 0
}

// groupEntrySize is that of struct nexthop_grp: id, weight minus one, three bytes of nothing.
const groupEntrySize = 8

func members(ids []uint32) []byte {
	var v []byte
	for _, id := range ids {
		v = binary.NativeEndian.AppendUint32(v, id)
		v = append(v, 0, 0, 0, 0)
	}
	return v
}
