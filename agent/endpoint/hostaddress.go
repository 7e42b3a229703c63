package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

const (
	loopbackIndex = 1 // in every network namespace
	// Not in x/sys/unix, from linux/if_addr.h: who made the address, as a route's protocol says of the route.
	ifaProto = 11
)

// SetHostAddresses makes addrs the host's own fabric addresses: they are put on the loopback, as routers have theirs,
// each with its full prefix length, and those of an earlier call that are not among them are removed. Ours are those
// marked with rtnl.Protocol. An address that is there without the mark stays as it is, wanted or not. New addresses
// come before old ones go, and are usable on return. What cannot be done does not keep the rest from being done.
//
// Kernels before 5.18 know no mark: there nothing is ever removed. The network namespace is the calling thread's.
func SetHostAddresses(addrs []netip.Addr) error {
	conn, err := rtnl.Open()
	if err != nil {
		return fmt.Errorf("host addresses: %w", err)
	}
	defer conn.Close()
	err = addHostAddresses(conn, addrs)
	old, listErr := markedAddresses(conn)
	old = slices.DeleteFunc(old, func(p netip.Prefix) bool { return slices.Contains(addrs, p.Addr()) })
	return errors.Join(err, listErr, removeHostAddresses(conn, old))
}

func addHostAddresses(conn *rtnl.Conn, addrs []netip.Addr) error {
	var b rtnl.Batch
	for _, a := range addrs {
		b.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		loopbackAddress(&b, netip.PrefixFrom(a, a.BitLen()))
		b.IP(unix.IFA_ADDRESS, a)
		b.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		b.Uint8(ifaProto, rtnl.Protocol)
	}
	var errs []error
	var added []netip.Addr
	for i, err := range conn.Do(&b, nil) {
		switch {
		case err == nil:
			added = append(added, addrs[i])
		case !errors.Is(err, unix.EEXIST):
			errs = append(errs, fmt.Errorf("host address %v: put it on the loopback: %w", addrs[i], err))
		}
	}
	err := poll(context.Background(), "the host's IPv6 addresses", func() (bool, error) { return localIPv6(conn, added) })
	if err != nil {
		errs = append(errs, fmt.Errorf("host addresses on the loopback (is it up?): %w", err))
	}
	return errors.Join(errs...)
}

// markedAddresses returns the addresses on the loopback that carry our mark, with their prefix lengths.
func markedAddresses(conn *rtnl.Conn) ([]netip.Prefix, error) {
	all, err := listAddresses(conn, loopbackIndex)
	var marked []netip.Prefix
	for _, a := range all {
		if a.marked {
			marked = append(marked, a.prefix)
		}
	}
	return marked, err
}

// address is one that a link has.
type address struct {
	prefix netip.Prefix // not masked
	index  int          // of the link
	marked bool         // with our mark
}

// listAddresses returns the addresses of the link with this index, or of all links if it is 0.
func listAddresses(conn *rtnl.Conn, index int) ([]address, error) {
	var b rtnl.Batch
	b.Begin(unix.RTM_GETADDR, 0)
	b.Address(unix.AF_UNSPEC, 0, index)
	var all []address
	err := conn.Dump(&b, func() { all = nil }, func(m rtnl.Message) {
		if a, ok := parseAddress(m); ok && (index == 0 || a.index == index) {
			all = append(all, a)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return all, nil
}

// parseAddress reads an RTM_NEWADDR.
func parseAddress(m rtnl.Message) (a address, ok bool) {
	const bitsAt, indexAt = 1, 4 // in struct ifaddrmsg
	p := m.Payload
	if m.Type != unix.RTM_NEWADDR || len(p) < unix.SizeofIfAddrmsg {
		return a, false
	}
	var local, near netip.Addr
	rtnl.Attributes(p[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			local = rtnl.Addr(v)
		case unix.IFA_ADDRESS: // with IFA_LOCAL the far end's
			near = rtnl.Addr(v)
		case ifaProto:
			a.marked = len(v) == 1 && v[0] == rtnl.Protocol
		}
	})
	if !local.IsValid() {
		local = near
	}
	a.index = int(binary.NativeEndian.Uint32(p[indexAt:]))
	a.prefix = netip.PrefixFrom(local, int(p[bitsAt]))
	return a, a.prefix.IsValid()
}

func removeHostAddresses(conn *rtnl.Conn, old []netip.Prefix) error {
	var b rtnl.Batch
	for _, p := range old {
		b.Begin(unix.RTM_DELADDR, 0)
		loopbackAddress(&b, p)
	}
	var errs []error
	for i, err := range conn.Do(&b, nil) {
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("former host address %v: take it from the loopback: %w", old[i], err))
		}
	}
	return errors.Join(errs...)
}

// loopbackAddress appends what identifies an address on the loopback.
func loopbackAddress(b *rtnl.Batch, p netip.Prefix) {
	b.Address(family(p.Addr()), uint8(p.Bits()), loopbackIndex)
	b.IP(unix.IFA_LOCAL, p.Addr())
}

// ValidateLinkName refuses interface names that the kernel would, lo, and those that sysctl uses for other things.
func ValidateLinkName(name string) error { return validateName("interface", name) }
