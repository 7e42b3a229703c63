package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// links answers questions about interfaces of the namespace it was opened in. Names and indices come from ioctls,
// which cost half a microsecond and do not take the kernel's RTNL lock.
type links struct {
	conn *rtnl.Conn
	fd   int
}

func openLinks(conn *rtnl.Conn) (*links, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket for interface queries: %w", err)
	}
	return &links{conn: conn, fd: fd}, nil
}

func (l *links) close() error { return unix.Close(l.fd) }

// index returns the interface's index.
func (l *links) index(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(l.fd, unix.SIOCGIFINDEX, req)
	}
	if errors.Is(err, unix.ENODEV) {
		return 0, fmt.Errorf("link %s does not exist", name)
	}
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	return int(req.Uint32()), nil
}

// name returns the name of an interface, or "" if it is gone.
func (l *links) name(index int) string {
	req, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	req.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(l.fd, unix.SIOCGIFNAME, req); err != nil {
		return ""
	}
	return req.Name()
}

// resolve finds the link whose connected network contains addr; of several, the most specific.
func (l *links) resolve(addr netip.Addr) (string, error) {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETADDR, 0)
	b.Address(family(addr), 0, 0)
	best, index := -1, 0
	reset := func() { best, index = -1, 0 }
	err := l.conn.Dump(&b, reset, func(m rtnl.Message) {
		if m.Type != unix.RTM_NEWADDR || len(m.Payload) < unix.SizeofIfAddrmsg {
			return
		}
		bits := int(m.Payload[1])
		rtnl.Attributes(m.Payload[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
			// IFA_ADDRESS is the peer on a point-to-point link and the own address elsewhere.
			if typ != unix.IFA_ADDRESS || bits <= best {
				return
			}
			if p, err := rtnl.Addr(v).Prefix(bits); err == nil && p.Contains(addr) {
				best, index = bits, int(rtnl.Uint32(m.Payload[4:]))
			}
		})
	})
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	name := l.name(index)
	if best < 0 || name == "" {
		return "", fmt.Errorf("next hop %v is on no connected network (name its link, or add an address there)", addr)
	}
	return name, nil
}
