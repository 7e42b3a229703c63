// Package endpoint connects containers to the host: a veth pair made directly in the container's network namespace,
// addresses of their own prefix length, permanent neighbours on both sides, and a default route via a link-local
// gateway that exists nowhere. There is no bridge, no ARP or neighbour discovery, and nothing per container that the
// host's firewall or proxies would have to know.
//
// Why it is safe to leave out what other plugins do:
//   - Neighbours are known beforehand: every host end has the MAC address HostMAC, a container's MAC follows from its
//     first address. Neither side ever asks, so nothing has to answer for 169.254.1.1 or fe80::1. (How it is with links that a
//     runtime places by itself, Offer tells.)
//   - The host end has no IPv6 link-local address (address generation is off) and takes no router advertisements: with
//     IPv6 forwarding off, a container could otherwise become the host's default router.
//   - The host end does no ARP: it answers none, and nothing a container says by it gets into the host's neighbour table.
//   - The container may send router solicitations; the host end has nothing that would answer them, and agent/firewall drops
//     all of neighbour discovery that comes from containers.
//   - Checksums stay offloaded. A packet between two veths is never checksummed, which is right for the kernel; only a
//     program that reads raw packets from the link (a DHCP client, an old userspace tunnel) sees unfinished sums.
package endpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"
)

const (
	// HostLinkPrefix begins the name of every host end.
	HostLinkPrefix = "hf"

	// Graveyard is the link group ("hf" and 1) of host ends that wait to be deleted together.
	Graveyard = 0x686601

	// Offered is the link group ("hf" and 2) of the host ends of offered links, see Offer.
	Offered = 0x686602
)

// The next hops of the containers' default routes. No interface has them.
var (
	GatewayV4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	GatewayV6 = netip.MustParseAddr("fe80::1")
)

// hostMAC is the locally administered address of every host end but those of offered links. No container's begins like it.
var hostMAC = net.HardwareAddr{0x02, 'h', 'f', 0, 0, 1}

// HostMAC returns the MAC address that host ends have.
func HostMAC() net.HardwareAddr { return append(net.HardwareAddr(nil), hostMAC...) }

// What Wire and Inspect can fail with besides the kernel's refusals. The text around them names the object.
var (
	ErrInvalid    = errors.New("invalid endpoint")
	ErrNotNetns   = errors.New("not a network namespace")
	ErrHostNetns  = errors.New("is the host's own network namespace")
	ErrLinkExists = errors.New("interface already exists")
	ErrNotFound   = errors.New("interface not found")
	ErrMismatch   = errors.New("endpoint is not as it was wired")
)

// Spec says what to wire.
type Spec struct {
	HostLink      string // see HostLink
	ContainerLink string
	Netns         string           // path of the container's network namespace
	Addrs         []netip.Addr     // each gets its full prefix length; the first decides the MAC address
	MTU           int              // bytes; 0 leaves the kernel's default
	Alias         string           // of the host link: the caller's record of whose it is
	MAC           net.HardwareAddr // of the container's end; nil: ContainerMAC of the first address
}

// Endpoint is a wired Spec.
type Endpoint struct {
	Spec
	HostMAC, ContainerMAC net.HardwareAddr
}

// HostLink returns the name of the host end for a container's interface: always the same, at most 15 bytes.
func HostLink(containerID, iface string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + iface))
	return HostLinkPrefix + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
}

// ContainerMAC returns the MAC address that a container with this first address has: for IPv4 the address itself, for
// IPv6 a hash of it. It only has to differ from the host's end of the same cable.
func ContainerMAC(first netip.Addr) net.HardwareAddr {
	if first.Is4() {
		a := first.As4()
		return net.HardwareAddr{0x02, '4', a[0], a[1], a[2], a[3]}
	}
	h := fnv.New32a()
	h.Write(first.AsSlice())
	return h.Sum(net.HardwareAddr{0x02, '6'})
}

const (
	maxName  = 15  // IFNAMSIZ less its zero
	maxAlias = 255 // IFALIASZ less its zero
	minMTU   = 68  // RFC 791
	minMTU6  = 1280
	maxMTU   = 65535
)

// validate reports everything wrong with the spec at once, but for the namespace, which is seen when it is opened.
func (s Spec) validate() error {
	errs := []error{validateName("host link", s.HostLink), validateName("container link", s.ContainerLink), validateMAC(s.MAC)}
	if len(s.Alias) > maxAlias {
		errs = append(errs, fmt.Errorf("alias is longer than %d bytes", maxAlias))
	}
	if len(s.Addrs) == 0 {
		errs = append(errs, errors.New("no address"))
	}
	floor := minMTU
	seen := make(map[netip.Addr]bool)
	for _, a := range s.Addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || seen[a] {
			errs = append(errs, fmt.Errorf("address %v is not a distinct unicast address", a))
		}
		if seen[a] = true; a.Is6() {
			floor = minMTU6
		}
	}
	if s.MTU != 0 && (s.MTU < floor || s.MTU > maxMTU) {
		errs = append(errs, fmt.Errorf("MTU %d is not between %d and %d", s.MTU, floor, maxMTU))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// endpoint is what there will be once the spec is wired.
func (s Spec) endpoint() Endpoint {
	e := Endpoint{Spec: s, HostMAC: HostMAC(), ContainerMAC: s.MAC}
	if s.MAC == nil {
		e.ContainerMAC = ContainerMAC(s.Addrs[0])
	}
	return e
}

// validateMAC refuses what cannot be the address of a container's end.
func validateMAC(mac net.HardwareAddr) error {
	const group = 1 // the bit of multicast and broadcast
	if mac != nil && (len(mac) != len(hostMAC) || mac[0]&group != 0 || bytes.Equal(mac, make([]byte, len(mac)))) {
		return fmt.Errorf("MAC address %v is not that of one interface", mac)
	}
	return nil
}

// validateName refuses what the kernel would, lo, and the names that stand for other things among the settings in
// /proc/sys/net/*/conf.
func validateName(what, name string) error {
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == '%' || r >= 0x7f } // % is the kernel's numbering
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%s name %q must have 1 to %d characters", what, name, maxName)
	case name == "." || name == ".." || name == "lo" || name == "all" || name == "default" || strings.ContainsFunc(name, bad):
		return fmt.Errorf("%s name %q is not usable", what, name)
	}
	return nil
}

// families reports which families the addresses are of.
func families(addrs []netip.Addr) (v4, v6 bool) {
	for _, a := range addrs {
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	return v4, v6
}
