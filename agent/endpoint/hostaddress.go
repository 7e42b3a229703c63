package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SetHostAddresses puts the host's own fabric addresses on the loopback, as routers have theirs, each with its full
// prefix length. One that is there already is left as it is; none is ever removed, since containers may be using it
// as the far end of a connection.
func SetHostAddresses(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("host address: find the loopback: %w", err)
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("host address %s: put it on the loopback: %w", a, err)
		}
	}
	return nil
}

// ValidateLinkName refuses interface names that the kernel would, and lo.
func ValidateLinkName(name string) error { return validateName("interface", name) }
