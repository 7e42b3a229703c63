package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// links answers questions about interfaces of the namespace it was opened in. Names and indices come from ioctls,
// which cost half a microsecond and do not take the kernel's RTNL lock: every route of a container needs one.
type links struct {
	handle *netlink.Handle
	ioctl  *os.File
}

func openLinks() (*links, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket for interface queries: %w", err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open rtnetlink socket for interface queries: %w", err), unix.Close(fd))
	}
	return &links{handle: handle, ioctl: os.NewFile(uintptr(fd), "interface queries")}, nil
}

func (l *links) close() error {
	l.handle.Close()
	return l.ioctl.Close()
}

// index returns the interface's index.
func (l *links) index(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(int(l.ioctl.Fd()), unix.SIOCGIFINDEX, req)
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
	if err := unix.IoctlIfreq(int(l.ioctl.Fd()), unix.SIOCGIFNAME, req); err != nil {
		return ""
	}
	return req.Name()
}

// state reports whether the interface exists and is up, with or without carrier.
func (l *links) state(name string) (exists, up bool) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return false, false
	}
	if err := unix.IoctlIfreq(int(l.ioctl.Fd()), unix.SIOCGIFFLAGS, req); err != nil {
		return false, false
	}
	return true, req.Uint16()&unix.IFF_UP != 0
}

// resolve finds the link whose connected network contains addr; of several, the most specific.
func (l *links) resolve(addr netip.Addr) (string, error) {
	var all []netlink.Addr
	err := rtnl.Uninterrupted(func() (err error) {
		all, err = l.handle.AddrList(nil, int(family(addr)))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	best, index := -1, 0
	for _, a := range all {
		network := cmp.Or(a.Peer, a.IPNet) // on a point-to-point link the network is the peer's
		if bits, _ := network.Mask.Size(); bits > best && network.Contains(addr.AsSlice()) {
			best, index = bits, a.LinkIndex
		}
	}
	name := l.name(index)
	if best < 0 || name == "" {
		return "", fmt.Errorf("next hop %v is on no connected network (name its link, or add an address there)", addr)
	}
	return name, nil
}
