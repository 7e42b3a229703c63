package endpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Not in x/sys/unix, from linux/veth.h, linux/if_link.h and linux/rtnetlink.h.
const (
	vethInfoPeer    = 1
	addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
	skipStats       = 1 << 3
	operUp          = 6 // IF_OPER_UP
)

// link is an interface as the kernel describes it.
type link struct {
	index, peer int // peer: index of the other end of a veth, in its own namespace
	name, alias string
	kind        string
	mac         net.HardwareAddr
	mtu         int
	group       uint32
	up          bool
	state       uint8 // RFC 2863
}

// ours reports whether the link is the host end of an endpoint: nobody else's veth has that address or is of that group, and
// unlike the alias it is so from the first moment.
func (l link) ours() bool {
	return l.kind == "veth" && (bytes.Equal(l.mac, hostMAC) || l.group == Offered)
}

func requestLink(b *rtnl.Batch, name string) {
	b.Begin(unix.RTM_GETLINK, 0)
	b.Link(0, 0, 0)
	b.String(unix.IFLA_IFNAME, name)
	b.Uint32(unix.IFLA_EXT_MASK, skipStats)
}

func getLink(conn *rtnl.Conn, name string) (link, error) {
	var b rtnl.Batch
	requestLink(&b, name)
	var l link
	err := conn.One(&b, func(m rtnl.Message) { l, _ = parseLink(m) })
	if errors.Is(err, unix.ENODEV) {
		return link{}, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	if err != nil {
		return link{}, fmt.Errorf("read link %s: %w", name, err)
	}
	return l, nil
}

// listLinks returns every veth in the connection's namespace.
func listLinks(conn *rtnl.Conn) ([]link, error) {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETLINK, 0)
	b.Link(0, 0, 0)
	info := b.Nest(unix.IFLA_LINKINFO)
	b.Bytes(unix.IFLA_INFO_KIND, []byte("veth"))
	b.EndNest(info)
	b.Uint32(unix.IFLA_EXT_MASK, skipStats)
	var all []link
	err := conn.Dump(&b, func() { all = nil }, func(m rtnl.Message) {
		if l, ok := parseLink(m); ok {
			all = append(all, l)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return all, nil
}

func parseLink(m rtnl.Message) (link, bool) {
	p := m.Payload
	if m.Type != unix.RTM_NEWLINK || len(p) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	l := link{
		index: int(binary.NativeEndian.Uint32(p[4:])),
		up:    binary.NativeEndian.Uint32(p[8:])&unix.IFF_UP != 0,
	}
	rtnl.Attributes(p[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = rtnl.CString(v)
		case unix.IFLA_IFALIAS:
			l.alias = rtnl.CString(v)
		case unix.IFLA_ADDRESS:
			l.mac = bytes.Clone(v)
		case unix.IFLA_MTU:
			l.mtu = int(rtnl.Uint32(v))
		case unix.IFLA_OPERSTATE:
			if len(v) > 0 {
				l.state = v[0]
			}
		case unix.IFLA_GROUP:
			l.group = rtnl.Uint32(v)
		case unix.IFLA_LINK:
			l.peer = int(rtnl.Uint32(v))
		case unix.IFLA_LINKINFO:
			rtnl.Attributes(v, func(typ uint16, v []byte) {
				if typ == unix.IFLA_INFO_KIND {
					l.kind = rtnl.CString(v)
				}
			})
		}
	})
	return l, true
}

// remove deletes a host end, and its peer with it, and waits until the kernel has. One that is gone is success.
func (w *Wirer) remove(index int) error {
	var b rtnl.Batch
	b.Begin(unix.RTM_DELLINK, 0)
	b.Link(index, 0, 0)
	if err := w.host.One(&b, nil); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %d: %w", index, err)
	}
	return nil
}
